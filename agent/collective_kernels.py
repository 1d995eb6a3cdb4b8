"""The collectives a rank can time, each checked once against what it must give. Needs a process group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import Launch

DIMS = ("degree", "payload_bytes")
FORMATS = ("bf16", "fp16", "fp32")
CHECKED = 64  # elements compared with what the collective must give


class WrongResultError(RuntimeError):
    """A collective gave something else than it must."""


Library = Callable[[str, torch.Tensor, torch.Tensor], Launch]
"""Another library's launch of a collective from a tensor into another; it gives what PyTorch's gives."""


@dataclass(slots=True)
class Collective:
    """A launch whose first result is known: ``mark``, launch, ``check``; later ones are of random numbers."""

    kernel: str
    launch: Launch
    x: torch.Tensor
    out: torch.Tensor
    _random: torch.Tensor = field(init=False)

    def mark(self) -> None:
        """Begins every share with the rank's number, counted from 1."""
        self._random = self._begins().clone()
        self._begins().fill_(dist.get_rank() + 1)

    def check(self) -> None:
        """Of what the launch gave. Raises: WrongResultError."""
        found = self.out[:CHECKED].double().cpu()
        self._begins().copy_(self._random)
        expected = EXPECTED[self.kernel](dist.get_world_size(), dist.get_rank(), len(self.x))
        if not torch.equal(found, expected[: len(found)].double()):
            raise WrongResultError(f"{self.kernel} gave {found[0].item()} for {expected[0].item()}")

    def _begins(self) -> torch.Tensor:
        return self.x.view(dist.get_world_size(), -1)[:, :CHECKED]


def prepare_collective(
    kernel: str, dtype: str, payload_bytes: int, buffers: Buffers, library: Library | None = None
) -> Collective:
    """Of ``payload_bytes`` as `compiler.ir.Collective` counts them.

    Raises: DeviceOutOfMemoryError.
    """
    element = TORCH_DTYPES[dtype]
    world = dist.get_world_size()
    elements = max(world, payload_bytes // element.itemsize // world * world)  # equal shares
    share = elements // world
    before, after = {"all_gather": (share, elements), "reduce_scatter": (elements, share)}.get(
        kernel, (elements, elements)
    )
    room = None if kernel == "send" else buffers.room(after, dtype=element)
    x = buffers.normal(before, dtype=element)  # after the room, which may be what does not fit
    if kernel == "all_reduce" and room is not None:  # in place, as engines do
        x = room.copy_(x)
    out = x if room is None else room
    launch = library(kernel, x, out) if library is not None else COLLECTIVES[kernel](x, out)
    return Collective(kernel, launch, x, out)


def _all_reduce(x: torch.Tensor, out: torch.Tensor) -> Launch:
    """The values grow from launch to launch, and soon are infinite."""

    def launch() -> torch.Tensor:
        dist.all_reduce(x)
        return out

    return launch


def _all_gather(x: torch.Tensor, out: torch.Tensor) -> Launch:
    def launch() -> torch.Tensor:
        dist.all_gather_into_tensor(out, x)
        return out

    return launch


def _reduce_scatter(x: torch.Tensor, out: torch.Tensor) -> Launch:
    def launch() -> torch.Tensor:
        dist.reduce_scatter_tensor(out, x)
        return out

    return launch


def _all_to_all(x: torch.Tensor, out: torch.Tensor) -> Launch:
    def launch() -> torch.Tensor:
        dist.all_to_all_single(out, x)
        return out

    return launch


def _send(x: torch.Tensor, out: torch.Tensor) -> Launch:
    """From rank 0 to rank 1; further ranks stand by."""
    rank = dist.get_rank()

    def launch() -> torch.Tensor:
        if rank == 0:
            dist.send(x, 1)
        elif rank == 1:
            dist.recv(out, 0)
        return out

    return launch


COLLECTIVES: dict[str, Callable[[torch.Tensor, torch.Tensor], Launch]] = {
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "send": _send,
}


def _summed(world: int, rank: int, elements: int) -> torch.Tensor:
    del rank, elements
    return torch.full((CHECKED,), world * (world + 1) / 2)


def _in_order(world: int, elements: int) -> torch.Tensor:
    """So many elements of each rank, one rank after the other."""
    return torch.arange(1, world + 1).repeat_interleave(min(elements, CHECKED))[:CHECKED]


EXPECTED: dict[str, Callable[[int, int, int], torch.Tensor]] = {
    "all_gather": lambda world, rank, elements: _in_order(world, elements),
    "all_reduce": _summed,
    "all_to_all": lambda world, rank, elements: _in_order(world, elements // world),
    "reduce_scatter": _summed,
    "send": lambda world, rank, elements: torch.full((CHECKED,), 1.0 if rank < 2 else rank + 1.0),
}
"""What a rank must find in the first elements, by the group's size, the rank and the elements of each."""
