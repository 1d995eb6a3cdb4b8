"""Memory that stays filled from case to case: filling it anew would take longer than many measurements.

Random numbers are handed out piece by piece, each piece once a case. What is made of them at some cost
(packed weights) is kept by name. Where a limit is met nothing more is kept, and cases make their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

MIN_CHUNK_BYTES = 32 << 20
PAGE_BYTES = 4096  # pieces begin on pages of their own

Fill = Callable[[torch.Tensor], None]


@dataclass(slots=True)
class Chunk:
    """A filled stretch of memory, handed out up to ``used`` elements."""

    flat: torch.Tensor
    used: int = 0

    def take(self, elements: int) -> torch.Tensor | None:
        if self.used + elements > len(self.flat):
            return None
        piece = self.flat[self.used : self.used + elements]
        page = max(1, PAGE_BYTES // self.flat.itemsize)
        self.used += -(-elements // page) * page
        return piece


@dataclass(slots=True)
class Pool:
    """Of one device, used by one thread. ``begin`` a case before drawing for it."""

    limit_bytes: int
    held_bytes: int = 0
    _chunks: dict[tuple[torch.dtype, float], list[Chunk]] = field(default_factory=dict)
    _named: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # by who made it and for what

    def begin(self) -> None:
        for chunks in self._chunks.values():
            for chunk in chunks:
                chunk.used = 0

    def draw(
        self, elements: int, dtype: torch.dtype, scale: float, fill: Fill
    ) -> torch.Tensor | None:
        """A flat piece that no other draw of the case has, or None where the limit is met."""
        chunks = self._chunks.setdefault((dtype, scale), [])
        for chunk in chunks:
            piece = chunk.take(elements)
            if piece is not None:
                return piece
        size = max(elements, MIN_CHUNK_BYTES // dtype.itemsize)
        if not self._holds(size * dtype.itemsize):
            return None
        flat = torch.empty(size, dtype=dtype)
        fill(flat)
        chunks.append(Chunk(flat))
        return chunks[-1].take(elements)

    def named(self, name: tuple[Any, ...], num_bytes: int, make: Callable[[], Any]) -> Any:
        """What ``make`` once made under this name; it may not change."""
        if name in self._named:
            return self._named[name]
        made = make()
        if self._holds(num_bytes):
            self._named[name] = made
        return made

    def _holds(self, num_bytes: int) -> bool:
        """Takes room for so much more, if there is."""
        if self.held_bytes + num_bytes > self.limit_bytes:
            return False
        self.held_bytes += num_bytes
        return True
