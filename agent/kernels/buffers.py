"""Tensors for one case: random, never more than fits, and enough copies to stay cold where a step is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

import torch

from servecast.agent.kernels.pool import Pool

Kept = TypeVar("Kept")

TILE_ELEMENTS = 1_000_003  # prime, so that the repeats of a tile align with no row
MAX_COPIES = 64  # of tensors far smaller than the cache; more would be launches, not coldness
COLD_CACHES = 2  # a rotation this many caches long leaves none of a copy behind when it comes round
HEADROOM = 0.9  # of free memory: allocators and workspaces take the rest
AHEAD_SHARE = 4  # of what a case may still need, one part in so many may be filled for later ones

TORCH_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
    "fp8_block": torch.float8_e4m3fn,
    "int8": torch.int8,
}


class DeviceOutOfMemoryError(RuntimeError):
    """A kernel's tensors do not fit on the device."""


@dataclass(slots=True)
class Buffers:
    """Allocates the tensors of one case. Inputs are random: zeros draw less power and run faster."""

    device: torch.device
    free_bytes: int
    cache_bytes: int
    pool: Pool | None = None
    used_bytes: int = 0  # by the case, in all
    fresh_bytes: int = 0  # of them beside what the pool held already
    _generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(0)
        if self.pool is not None:
            self.pool.begin()

    @property
    def spare_bytes(self) -> int:
        return int(self.free_bytes * HEADROOM) - self.fresh_bytes

    def reserve(self, num_bytes: int, held_bytes: int = 0) -> None:
        """Counts memory that a launch will take by itself, or that it takes of which the pool has some.

        Raises: DeviceOutOfMemoryError before anything is allocated, because a host that runs out kills.
        """
        self.used_bytes += num_bytes
        self.fresh_bytes += num_bytes - held_bytes
        if self.spare_bytes < 0:
            raise DeviceOutOfMemoryError(
                f"needs {self.used_bytes} bytes, {self.device} has "
                f"{self.used_bytes + self.spare_bytes} to spare"
            )

    def might_fit(self) -> bool:
        """Whether what was counted so far would fit if the pool gave its memory back."""
        held_bytes = self.pool.held_bytes if self.pool is not None else 0
        return held_bytes > 0 and self.used_bytes <= HEADROOM * (self.free_bytes + held_bytes)

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        self.reserve(math.prod(shape) * dtype.itemsize)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers; int8 gets them times 32, rounded, so that all its bits toggle.

        A kernel may write to them only what is as random: the next case may find it.
        """
        elements = math.prod(shape)
        fill = partial(_fill_random, scale)
        lacking = self.pool.lacks(elements, dtype, scale) if self.pool is not None else None
        if self.pool is None or lacking is None:
            tensor = self.empty(*shape, dtype=dtype)
            fill(tensor.view(-1), self.used_bytes)  # no two tensors begin alike
            return tensor
        num_bytes = elements * dtype.itemsize
        self.reserve(num_bytes, num_bytes - lacking)
        before_bytes = self.pool.held_bytes
        ahead_bytes = self.spare_bytes // AHEAD_SHARE
        piece = self.pool.draw(elements, dtype, scale, ahead_bytes, fill)
        self.fresh_bytes += self.pool.held_bytes - before_bytes - lacking
        return piece.view(shape)

    def room(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """To be written to: it holds what an earlier case left there."""
        return self.normal(*shape, dtype=dtype, scale=0.0)

    def kept(self, name: tuple[Any, ...], num_bytes: int, make: Callable[[], Kept]) -> Kept:
        """What ``make`` gives; where there is a pool, what it gave to the first case that asked."""
        held = self.pool is not None and self.pool.has(name)
        self.reserve(num_bytes, num_bytes if held else 0)
        if self.pool is None:
            return make()
        found: Kept = self.pool.named(name, num_bytes, make)
        return found

    def integers(self, *shape: int, below: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        self.reserve(math.prod(shape) * dtype.itemsize)
        return torch.randint(
            below, shape, generator=self._generator, dtype=dtype, device=self.device
        )

    def permutation(self, n: int) -> torch.Tensor:
        self.reserve(n * 8)
        return torch.randperm(n, generator=self._generator, device=self.device)

    def copies(self, cold_bytes: int) -> int:
        """How many copies of ``cold_bytes`` a rotation needs so that each is found cold."""
        wanted = math.ceil(COLD_CACHES * self.cache_bytes / max(1, cold_bytes))
        return max(1, min(wanted, MAX_COPIES))

    def row_copies(self, num_bytes: int) -> int:
        """How many copies of a kernel's rows, in and out, take turns.

        A GPU's cache keeps them from one kernel to the next. On a processor a layer's weights have passed
        through all caches before a kernel of this kind finds its memory again.
        """
        return self.copies(num_bytes) if self.device.type == "cpu" else 1


@cache  # a device's tile serves all its cases: drawing it takes longer than many kernels
def _random_tile(device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(TILE_ELEMENTS, generator=generator, device=device)


def _fill_random(scale: float, flat: torch.Tensor, begin: int) -> None:
    """``begin`` says where in the tile to begin: a stretch goes on where the one before it ended."""
    tile = _random_tile(flat.device).roll(-begin % TILE_ELEMENTS)
    tile *= scale if flat.dtype.is_floating_point else 32 * scale
    if not flat.dtype.is_floating_point:
        tile = tile.round().clamp(-127, 127)
    _fill(flat, tile.to(flat.dtype))


def keeping(
    launches: Sequence[Callable[[], torch.Tensor]],
) -> tuple[Callable[[], torch.Tensor], ...]:
    """Each keeps what it gave until it is launched again, so that outputs take turns as inputs do."""
    kept: list[torch.Tensor | None] = [None] * len(launches)

    def launch(number: int) -> torch.Tensor:
        kept[number] = found = launches[number]()
        return found

    return tuple(partial(launch, number) for number in range(len(launches)))


def _fill(flat: torch.Tensor, tile: torch.Tensor) -> None:
    """Copies the tile over and over: as random as needed, at the speed of a copy."""
    whole = len(flat) // len(tile)
    body = whole * len(tile)
    flat[:body].view(whole, len(tile)).copy_(tile.expand(whole, len(tile)))
    flat[body:].copy_(tile[: len(flat) - body])
