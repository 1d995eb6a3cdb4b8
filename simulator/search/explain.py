"""Why a configuration ranks where it does: what one step aside would change, and how two differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

NUMBERS = ("tp", "pp", "ep", "dp", "max_num_seqs", "max_batched_tokens")
NAMES = ("sku", "precision", "policy", "router")
AXES = (*NAMES[:1], *NUMBERS, *NAMES[1:])
"""Those that a result does not have are alike in all of its configurations."""


@dataclass(frozen=True, slots=True)
class Change:
    """From one configuration to another: the axes that differ, and what each figure becomes.

    Ratios are new over old, minus 1; differences are new minus old, in seconds.
    """

    axes: tuple[tuple[str, Any, Any], ...]  # (axis, from, to)
    qps_per_usd: float
    qps: float
    usd_per_hour: float
    ttft_p90_s: float
    tbt_p99_s: float
    e2e_p90_s: float

    @property
    def label(self) -> str:
        """``tp 1→2, max_num_seqs 64→128``."""
        return ", ".join(f"{axis} {old}→{new}" for axis, old, new in self.axes)


def change(old: Row, new: Row) -> Change:
    def ratio(key: str) -> float:
        return float(new[key] / old[key] - 1)

    def difference(metric: str, at: str) -> float:
        return float(new["metrics"][metric][at] - old["metrics"][metric][at])

    return Change(
        axes=tuple((axis, old[axis], new[axis]) for axis in AXES if old.get(axis) != new.get(axis)),
        qps_per_usd=ratio("qps_per_usd_hour"),
        qps=ratio("qps"),
        usd_per_hour=ratio("usd_per_hour"),
        ttft_p90_s=difference("ttft_s", "p90"),
        tbt_p99_s=difference("tbt_s", "p99"),
        e2e_p90_s=difference("e2e_s", "p90"),
    )


def steps_aside(result: Row, row: Row) -> list[Change]:
    """To every ranked configuration that differs in one axis, by the next value that was tried there."""
    found: list[Change] = []
    for axis in AXES:
        along = [
            other
            for other in result["ranked"]
            if all(other.get(a) == row.get(a) for a in AXES if a != axis)
            and other.get(axis) != row.get(axis)
        ]
        if axis in NAMES:
            nearest = along
        else:
            below = [other for other in along if other[axis] < row[axis]]
            above = [other for other in along if other[axis] > row[axis]]
            nearest = [
                *([max(below, key=lambda other: other[axis])] if below else []),
                *([min(above, key=lambda other: other[axis])] if above else []),
            ]
        found.extend(change(row, other) for other in nearest)
    return found


def refused_aside(result: Row, row: Row) -> list[tuple[str, str]]:
    """(what differs, why not) for infeasible configurations one axis away, each reason once an axis."""
    found: dict[tuple[str, str], None] = {}
    for miss in result["infeasible"]:
        said = {axis: miss[axis] for axis in AXES if miss.get(axis) is not None}
        differs = [axis for axis in said if axis in row and said[axis] != row[axis]]
        if len(differs) == 1:
            axis = differs[0]
            found[f"{axis} {row[axis]}→{miss[axis]}", miss["reason"]] = None
    return list(found)
