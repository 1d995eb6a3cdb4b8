"""Why a configuration ranks where it does: what one step aside would change, and how two differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

NUMBERS = ("tp", "pp", "ep", "dp", "max_num_seqs", "max_batched_tokens")
NAMES = ("sku", "precision", "policy", "router", "mode")
AXES = (*NAMES[:1], *NUMBERS, *NAMES[1:])
"""Those that a result does not have are alike in all of its configurations."""
ROLES = ("prefill", "decode")


def place(row: Row) -> dict[str, Any]:
    """Where a configuration stands on each axis, those of each role by themselves where they are apart."""
    if not all(row.get(role) for role in ROLES):
        return {axis: row.get(axis) for axis in AXES}
    roles = {f"{role} {axis}": row[role].get(axis) for role in ROLES for axis in ("sku", *NUMBERS)}
    return {**roles, **{axis: row.get(axis) for axis in NAMES[1:]}}


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
        axes=(*_other_gpus(old, new), *_differing(place(old), place(new))),
        qps_per_usd=ratio("qps_per_usd_hour"),
        qps=ratio("qps"),
        usd_per_hour=ratio("usd_per_hour"),
        ttft_p90_s=difference("ttft_s", "p90"),
        tbt_p99_s=difference("tbt_s", "p99"),
        e2e_p90_s=difference("e2e_s", "p90"),
    )


def _other_gpus(old: Row, new: Row) -> tuple[tuple[str, Any, Any], ...]:
    """Where roles are apart in one alone, they have no axis of GPUs in common."""
    alike = ("sku" in place(old)) == ("sku" in place(new)) or old["sku"] == new["sku"]
    return () if alike else (("sku", old["sku"], new["sku"]),)


def _differing(old: Row, new: Row) -> tuple[tuple[str, Any, Any], ...]:
    """The axes that both have and differ on."""
    return tuple((a, old[a], new[a]) for a in old if a in new and old[a] != new[a])


def steps_aside(result: Row, row: Row) -> list[Change]:
    """To every ranked configuration that differs in one axis, by the next value that was tried there."""
    mine = place(row)
    others = [(place(other), other) for other in result["ranked"]]
    found: list[Change] = []
    for axis, value in mine.items():
        along = {
            index: there[axis]
            for index, (there, _) in enumerate(others)
            if there.keys() == mine.keys() and [a for a, _, _ in _differing(mine, there)] == [axis]
        }
        nearest = list(along)
        if axis.split()[-1] in NUMBERS:
            below = [index for index in along if along[index] < value]
            above = [index for index in along if along[index] > value]
            nearest = [
                *([max(below, key=along.__getitem__)] if below else []),
                *([min(above, key=along.__getitem__)] if above else []),
            ]
        found.extend(change(row, others[index][1]) for index in nearest)
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
