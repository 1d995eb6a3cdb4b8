"""Memory that stays filled from case to case: touching it first takes longer than many measurements.

Random numbers of a dtype and scale lie in one stretch of addresses, of which cases get views. It is filled as
far as a case ever reached, and some way ahead, so that few cases wait for it. What is made of them at some
cost (packed weights) is kept by name. Where a limit is met nothing more is kept, and cases make their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

MIN_GROWTH_BYTES = 32 << 20
MAX_AHEAD_BYTES = 256 << 20  # more would take room from what is kept by name
LARGEST_SHARE = 4  # a piece above limit / 4 is a case's own: few are, and they would take all room
PAGE_BYTES = 4096  # pieces begin on pages of their own

log = logging.getLogger(__name__)
Fill = Callable[[torch.Tensor, int], None]
"""Fills a stretch that begins after so many numbers."""


@dataclass(slots=True)
class Stretch:
    """Addresses of which the first ``filled`` elements have memory; the case has the first ``used``."""

    flat: torch.Tensor
    filled: int = 0
    used: int = 0

    def end_of(self, elements: int) -> int:
        """Where a piece of so many would end, at the end of a page."""
        page = PAGE_BYTES // self.flat.itemsize
        return self.used + -(-elements // page) * page

    def take(self, elements: int) -> torch.Tensor:
        piece = self.flat[self.used : self.used + elements]
        self.used = self.end_of(elements)
        return piece


@dataclass(slots=True)
class Pool:
    """Of one device, used by one thread. ``begin`` a case before drawing for it.

    ``once_s`` is the time that went into memory which later cases find ready.
    """

    limit_bytes: int
    held_bytes: int = 0
    once_s: float = 0.0
    _stretches: dict[tuple[torch.dtype, float], Stretch] = field(default_factory=dict)
    _named: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # by who made it and for what

    def begin(self) -> None:
        for stretch in self._stretches.values():
            stretch.used = 0

    def lacks(self, elements: int, dtype: torch.dtype, scale: float) -> int | None:
        """Bytes to fill before so many more can be drawn; None where the limit is in the way."""
        stretch = self._stretch(dtype, scale)
        lacking = max(0, stretch.end_of(elements) - stretch.filled) * dtype.itemsize
        fits = elements * dtype.itemsize * LARGEST_SHARE <= self.limit_bytes
        fits = fits and stretch.end_of(elements) <= len(stretch.flat)
        return lacking if fits and self.held_bytes + lacking <= self.limit_bytes else None

    def draw(
        self, elements: int, dtype: torch.dtype, scale: float, ahead_bytes: int, fill: Fill
    ) -> torch.Tensor:
        """A flat piece that no other draw of the case has; ``lacks`` must have said that there is room.

        Where it must fill, it fills for later cases, too: as far again, and no more than ``ahead_bytes``.
        """
        stretch = self._stretch(dtype, scale)
        lacking = stretch.end_of(elements) - stretch.filled
        if lacking > 0:
            again = max(stretch.filled, MIN_GROWTH_BYTES // dtype.itemsize)
            most = min(
                lacking + min(ahead_bytes, MAX_AHEAD_BYTES) // dtype.itemsize,
                (self.limit_bytes - self.held_bytes) // dtype.itemsize,
                len(stretch.flat) - stretch.filled,
            )
            self._grow(stretch, max(lacking, min(again, most)), fill)
        return stretch.take(elements)

    def _grow(self, stretch: Stretch, elements: int, fill: Fill) -> None:
        begin_s = time.perf_counter()
        fill(stretch.flat[stretch.filled : stretch.filled + elements], stretch.filled)
        stretch.filled += elements
        self._hold(elements * stretch.flat.itemsize, time.perf_counter() - begin_s)

    def _stretch(self, dtype: torch.dtype, scale: float) -> Stretch:
        """Addresses alone take no memory: it comes as they are filled."""
        found = self._stretches.get((dtype, scale))
        if found is None:
            page = PAGE_BYTES // dtype.itemsize
            flat = _addresses(self.limit_bytes // dtype.itemsize + page, dtype)
            skipped = -flat.data_ptr() % PAGE_BYTES // dtype.itemsize
            found = self._stretches[dtype, scale] = Stretch(flat[skipped:])
        return found

    @property
    def formats(self) -> set[torch.dtype]:
        """Those of which numbers lie ready."""
        return {dtype for (dtype, _), stretch in self._stretches.items() if stretch.filled}

    def has(self, name: tuple[Any, ...]) -> bool:
        return name in self._named

    def named(self, name: tuple[Any, ...], num_bytes: int, make: Callable[[], Any]) -> Any:
        """What ``make`` once made under this name; it may not change."""
        if name in self._named:
            return self._named[name]
        begin_s, before_s = time.perf_counter(), self.once_s
        made = make()
        if self.held_bytes + num_bytes <= self.limit_bytes:
            self._named[name] = made
            grown_s = self.once_s - before_s  # by what was drawn for it
            self._hold(num_bytes, time.perf_counter() - begin_s - grown_s)
        return made

    def _hold(self, num_bytes: int, took_s: float) -> None:
        self.held_bytes += num_bytes
        self.once_s += took_s
        told = {"bytes": num_bytes, "held_bytes": self.held_bytes, "seconds": round(took_s, 4)}
        log.info("memory made ready", extra=told)

    def drop(self) -> None:
        """Gives all memory back."""
        self._stretches.clear()
        self._named.clear()
        self.held_bytes = 0


def _addresses(elements: int, dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(elements, dtype=dtype)
    except RuntimeError:  # no more addresses than there is memory: overcommit_memory=2
        return torch.empty(0, dtype=dtype)
