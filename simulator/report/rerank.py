"""A search result under other targets, from the latencies that it holds: nothing is simulated again. Pure.

A configuration's latencies were simulated at its capacity under the targets of the search. It keeps the other
targets at that rate or it does not; how much less it would carry under tighter ones, or more under looser
ones, only another search can say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from servecast.compiler.errors import UserError
from servecast.compiler.service import Slo
from servecast.simulator.report.check import METRICS, checked
from servecast.simulator.report.view import STATISTICS, statistic

Row = dict[str, Any]

OF_THE_SEARCH = ("ties", "sensitivity", "explanation")
"""Parts of a result that hold under its own targets only."""


def rerank(result: Mapping[str, Any], slos: Sequence[Slo], where: str = "result") -> Row:
    """The same object with ``slos`` as its targets: the configurations that keep them, in their order, and
    why the others do not.

    Raises:
        UserError: ``result`` is no search result, or a target names a figure that it does not hold.
    """
    found = checked(result, where)
    for slo in slos:
        _check_held(slo)
    kept = [row for row in found["ranked"] if not _broken(row, slos)]
    refused = [_refusal(row, _broken(row, slos)) for row in found["ranked"] if _broken(row, slos)]
    note = (
        "ranked again under these targets, from latencies at the capacities found under "
        f"{' and '.join(found['question']['slos']) or 'none'}: they bound what is carried from below "
        "where the targets are looser; search again for exact capacities"
    )
    provenance = {**found["provenance"], "notes": [note, *found["provenance"].get("notes", ())]}
    return {
        **{key: value for key, value in found.items() if key not in OF_THE_SEARCH},
        "best": _best(found, kept),
        "ranked": kept,
        "infeasible": [*refused, *found["infeasible"]],
        "question": {**found["question"], "slos": [_text(slo) for slo in slos]},
        "provenance": provenance,
    }


def _best(found: Row, kept: list[Row]) -> Row | None:
    """With its latencies at the trace's rate where it is the one that they were simulated for."""
    if not kept:
        return None
    same = found["ranked"] and kept[0] is found["ranked"][0]
    return found["best"] if same else kept[0]


def _check_held(slo: Slo) -> None:
    if slo.priority is not None:
        raise UserError(
            f"{_text(slo)} of class {slo.priority} alone: a result holds latencies of all requests; "
            "search again with this target"
        )
    if statistic(slo) not in STATISTICS or f"{slo.metric}_s" not in METRICS:
        held = ", ".join(STATISTICS)
        raise UserError(f"{_text(slo)}: a result holds {held} of a latency, not {statistic(slo)}")


def _broken(row: Row, slos: Sequence[Slo]) -> list[tuple[Slo, float]]:
    """The targets that a configuration misses at its capacity, with what it comes to."""
    values = ((slo, row["metrics"][f"{slo.metric}_s"].get(statistic(slo))) for slo in slos)
    return [(slo, value) for slo, value in values if value is not None and value >= slo.limit_s]


def _refusal(row: Row, broken: list[tuple[Slo, float]]) -> Row:
    slo, value = broken[0]
    reason = (
        f"at its capacity of {row['qps']:.3g} requests per second: {_text(slo)} comes to "
        f"{value:.3g} s ({value / slo.limit_s:.2g} times the target); at a lower rate it may keep it"
    )
    keys = ("sku", "tp", "pp", "max_num_seqs", "max_batched_tokens")
    return {**{key: row[key] for key in keys}, "reason": reason}


def _text(slo: Slo) -> str:
    return f"{slo.metric} {statistic(slo)} < {slo.limit_s:g} s"
