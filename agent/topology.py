"""Which GPUs of a node form a group: those that reach each other best. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from servecast.agent.messages import Link

KINDS = ("host", "pcie", "nvlink")  # slower ones first


def choose_devices(links: Sequence[Link], count: int, degree: int) -> tuple[int, ...]:
    """``degree`` of ``count`` devices whose slowest link is best, then with the most lanes; low ones.

    A collective is as fast as its slowest link. Links that nobody told count as the slowest kind.
    """
    found = {frozenset((link.a, link.b)): link for link in links}

    def worth(devices: tuple[int, ...]) -> tuple[int, int]:
        pairs = [found.get(frozenset(pair)) for pair in combinations(devices, 2)]
        slowest = min((_rank(link) for link in pairs), default=0)
        return slowest, sum(link.lanes for link in pairs if link is not None)

    return max(combinations(range(count), degree), key=worth)


def slowest_kind(links: Sequence[Link], devices: Sequence[int]) -> str:
    """Of the links between the devices; empty where there is none."""
    inside = [link for link in links if {link.a, link.b} <= set(devices)]
    return min((link.kind for link in inside), key=_kind_rank, default="")


def _rank(link: Link | None) -> int:
    return _kind_rank(link.kind) if link is not None else 0


def _kind_rank(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else 0
