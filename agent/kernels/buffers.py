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
TILE_SHIFT = 7919  # between the tensors of a case; prime, and no divisor of the tile
MAX_COPIES = 64  # of tensors far smaller than the cache; more would be launches, not coldness
COLD_CACHES = 2  # a rotation this many caches long leaves none of a copy behind when it comes round
HEADROOM = 0.9  # of free memory: allocators and workspaces take the rest

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
    used_bytes: int = 0
    _drawn: int = 0
    _generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(0)
        if self.pool is not None:
            self.pool.begin()

    def reserve(self, num_bytes: int) -> None:
        """Counts memory that a launch will take by itself.

        Raises: DeviceOutOfMemoryError before anything is allocated, because a host that runs out kills.
        """
        self.used_bytes += num_bytes
        kept_bytes = self.pool.held_bytes if self.pool is not None else 0
        budget = int(self.free_bytes * HEADROOM) + kept_bytes
        if self.used_bytes > budget:
            raise DeviceOutOfMemoryError(
                f"needs {self.used_bytes} bytes, {self.device} has {budget} to spare"
            )

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        self.reserve(math.prod(shape) * dtype.itemsize)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers; int8 gets them times 32, rounded, so that all its bits toggle.

        A kernel may write to them only what is as random: the next case may find it.
        """
        if self.pool is not None:
            fill = partial(self._fill_random, scale)
            piece = self.pool.draw(math.prod(shape), dtype, scale, fill)
            if piece is not None:
                self.reserve(piece.nbytes)
                return piece.view(shape)
        tensor = self.empty(*shape, dtype=dtype)
        self._fill_random(scale, tensor.view(-1))
        return tensor

    def _fill_random(self, scale: float, flat: torch.Tensor) -> None:
        self._drawn += 1  # no two tensors begin alike
        tile = _random_tile(self.device).roll(self._drawn * TILE_SHIFT)
        tile *= scale if flat.dtype.is_floating_point else 32 * scale
        if not flat.dtype.is_floating_point:
            tile = tile.round().clamp(-127, 127)
        _fill(flat, tile.to(flat.dtype))

    def kept(self, name: tuple[Any, ...], num_bytes: int, make: Callable[[], Kept]) -> Kept:
        """What ``make`` gives; where there is a pool, what it gave to the first case that asked."""
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
