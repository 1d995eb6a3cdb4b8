"""The collectives a rank can time, each checked once against what it must give. Needs a process group."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from servecast.agent.kernels.buffers import TORCH_DTYPES
from servecast.agent.kernels.kernel import Launch

DIMS = ("degree", "payload_bytes")
FORMATS = ("bf16", "fp16", "fp32")
CHECKED = 64  # elements compared with what the collective must give


class WrongResultError(RuntimeError):
    """A collective gave something else than it must."""


Library = Callable[[str, torch.Tensor], Launch]
"""Another library's launch of a collective over a tensor; it gives what PyTorch's gives."""


def prepare_collective(
    kernel: str,
    dtype: str,
    payload_bytes: int,
    device: torch.device,
    library: Library | None = None,
) -> Launch:
    """A launch of ``payload_bytes`` on each rank before it, as compiler/kernels.py counts them.

    Raises: WrongResultError.
    """
    element = TORCH_DTYPES[dtype]
    world = dist.get_world_size()
    elements = max(world, payload_bytes // element.itemsize // world * world)  # equal shares
    fill = float(dist.get_rank() + 1)
    x = torch.full((elements,), fill, dtype=element, device=device)
    launch, expected = COLLECTIVES[kernel](x)
    if library is not None:
        launch = library(kernel, x)
    found = launch()[:CHECKED].double().cpu()
    if not torch.equal(found, expected[: len(found)].double()):
        raise WrongResultError(f"{kernel} gave {found[0].item()} for {expected[0].item()}")
    x.copy_(torch.randn(elements, device=device).mul_(1e-3))
    return launch


def _all_reduce(x: torch.Tensor) -> tuple[Launch, torch.Tensor]:
    """In place, as engines do; the values grow from launch to launch, and soon are infinite."""

    def launch() -> torch.Tensor:
        dist.all_reduce(x)
        return x

    world = dist.get_world_size()
    return launch, torch.full((CHECKED,), world * (world + 1) / 2)


def _all_gather(x: torch.Tensor) -> tuple[Launch, torch.Tensor]:
    out = x.new_empty(len(x) * dist.get_world_size())

    def launch() -> torch.Tensor:
        dist.all_gather_into_tensor(out, x)
        return out

    return launch, torch.arange(1, dist.get_world_size() + 1).repeat_interleave(len(x))[:CHECKED]


def _reduce_scatter(x: torch.Tensor) -> tuple[Launch, torch.Tensor]:
    world = dist.get_world_size()
    out = x.new_empty(len(x) // world)

    def launch() -> torch.Tensor:
        dist.reduce_scatter_tensor(out, x)
        return out

    return launch, torch.full((CHECKED,), world * (world + 1) / 2)


def _all_to_all(x: torch.Tensor) -> tuple[Launch, torch.Tensor]:
    world = dist.get_world_size()
    out = torch.empty_like(x)

    def launch() -> torch.Tensor:
        dist.all_to_all_single(out, x)
        return out

    return launch, torch.arange(1, world + 1).repeat_interleave(len(x) // world)[:CHECKED]


def _send(x: torch.Tensor) -> tuple[Launch, torch.Tensor]:
    """From rank 0 to rank 1; further ranks stand by."""
    rank = dist.get_rank()

    def launch() -> torch.Tensor:
        if rank == 0:
            dist.send(x, 1)
        elif rank == 1:
            dist.recv(x, 0)
        return x

    return launch, torch.full((CHECKED,), 1.0 if rank < 2 else rank + 1.0)


COLLECTIVES: dict[str, Callable[[torch.Tensor], tuple[Launch, torch.Tensor]]] = {
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "send": _send,
}
