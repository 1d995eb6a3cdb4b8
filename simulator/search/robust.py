"""One answer for several weighted traces: each configuration by its worst case, or by its mean. Pure.

Each trace has had a search of its own. The mean is that of the cost of a request: of requests per dollar it
is the harmonic one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servecast.compiler.errors import UserError
from servecast.simulator.search.confidence import (
    CONTENDER,
    DEFAULT_CONFIDENCE,
    STUDENT_T,
    Draws,
    is_behind,
)
from servecast.simulator.search.deployed_for_all import (
    RENTED,
    ROLES,
    as_sure,
    deployed_for,
    value_of,
)
from servecast.simulator.search.objective import Objective, Row
from servecast.simulator.search.result import distance

IDENTITY = (
    "sku", "precision", "tp", "pp", "ep", "dp", "max_num_seqs", "max_batched_tokens", "policy", "router",
)  # fmt: skip
PLACE = ("sku", "tp", "pp", "ep", "dp")
LIMITS = ("max_num_seqs", "max_batched_tokens")
HALF = 0.5
OF_A_TRACE = ("qps", "qps_interval", "qps_per_usd_hour", *RENTED, "metrics", "binds")


@dataclass(frozen=True, slots=True)
class Weighted:
    """A trace's search result and its share of what is served."""

    name: str
    weight: float
    result: Row


def _worst(values: Sequence[float], weights: Sequence[float], objective: Objective) -> float:
    return min(values) if objective.higher_is_better else max(values)


def _mean(values: Sequence[float], weights: Sequence[float], objective: Objective) -> float:
    total = sum(weights)
    if objective.higher_is_better:
        return total / sum(weight / value for weight, value in zip(weights, values, strict=True))
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total


CHOICES: dict[str, Callable[[Sequence[float], Sequence[float], Objective], float]] = {
    "worst": _worst,
    "mean": _mean,
}


def combined(traces: Sequence[Weighted], objective: Objective, choice: str) -> Row:
    """The answer of ``docs/results.md`` for all traces: rows are those of the trace that is worst for each.

    A configuration must carry every trace; deployments are those that carry the most demanding.
    """
    tables = [_by_identity(each.result["ranked"]) for each in traces]
    everywhere = [key for key in tables[0] if all(key in table for table in tables)]
    rows = [_row([table[key] for table in tables], traces, objective, choice) for key in everywhere]
    sign = -1 if objective.higher_is_better else 1
    rows.sort(key=lambda row: (not row["grounded"], sign * row["robust"], *_among_equals(row)))
    first = traces[0].result
    misses = [*_infeasible(traces), *_otherwise_limited(traces)]
    _mark_ties(rows, first["question"].get("confidence", DEFAULT_CONFIDENCE))
    return {
        **first,
        "complete": all(each.result["complete"] for each in traces),
        "best": rows[0] if rows else None,
        "ranked": rows,
        "ties": [
            _tie(index + 1, row)
            for index, row in enumerate(rows)
            if index and row["tied_with_best"]
        ],
        "undrawn": _undrawn(rows, objective),
        "explanation": None,
        "sensitivity": None,
        "infeasible": misses if rows else sorted(misses, key=distance),
        "workloads": [
            {"name": each.name, "weight": each.weight, **each.result["workload"]} for each in traces
        ],
        "question": {**first["question"], "robust": choice},
        "elapsed_s": sum(each.result["elapsed_s"] for each in traces),
    }


def _among_equals(row: Row) -> tuple[Any, ...]:
    return (-row["qps_per_usd_hour"], row["gpus"], *_key(row))


def check_weights(num_traces: int, weights: Sequence[float]) -> tuple[float, ...]:
    """One for each trace; equal ones where none is given.

    Raises:
        UserError: as many weights as traces are needed.
    """
    if weights and len(weights) != num_traces:
        raise UserError(
            f"--weight: {len(weights)} of them for {num_traces} traces; give one for each"
        )
    return tuple(weights) or (1.0,) * num_traces


def _key(row: Mapping[str, Any], of_a_role: Sequence[str] = (*PLACE, *LIMITS)) -> tuple[Any, ...]:
    """A pair's roles tell it, and the limits that were found best for each are a part of it."""
    roles = [row[role] for role in ROLES if row.get(role)]
    parts = tuple(tuple(role[name] for name in of_a_role) for role in roles)
    mine = [name for name in IDENTITY if not roles or name not in LIMITS]
    return (*(row[name] for name in mine), *parts)


def _by_identity(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    return {_key(row): row for row in rows}


def _row(rows: Sequence[Row], traces: Sequence[Weighted], objective: Objective, choice: str) -> Row:
    deployed, weights = deployed_for(rows), [each.weight for each in traces]
    values = [value_of(row, deployed, objective) for row in rows]
    worst = values.index(_worst(values, (), objective))
    robust = CHOICES[choice](values, weights, objective)
    if choice == "worst" and objective.key in RENTED:
        robust = deployed[objective.key]  # of roles apart more than any trace alone may want
    return {
        **rows[worst],
        **deployed,
        **as_sure(rows, deployed),
        "robust": robust,
        "robust_draws": _drawn(rows, values, weights, objective, choice),
        "tied_with_best": False,
        "worst_trace": traces[worst].name,
        "traces": [
            {"name": each.name, **{name: row[name] for name in OF_A_TRACE}}
            for each, row in zip(traces, rows, strict=True)
        ],
    }


def _drawn(
    rows: Sequence[Row],
    values: Sequence[float],
    weights: Sequence[float],
    objective: Objective,
    choice: str,
) -> list[float] | None:
    """The figure of all traces in each draw of their capacities; None where some trace's were not drawn.

    Where less is asked for, replicas decide, and no draw of a capacity changes them.
    """
    if not objective.higher_is_better or not all(row.get("qps_draws") for row in rows):
        return None
    drawn = zip(
        *(
            [value * qps / row["qps"] for qps in row["qps_draws"]]
            for row, value in zip(rows, values, strict=True)
        ),
        strict=True,
    )
    return [CHOICES[choice](each, weights, objective) if min(each) > 0 else 0.0 for each in drawn]


def _mark_ties(rows: Sequence[Row], confidence: float) -> None:
    """As in the search of one trace: draw by draw, of what measurements bear as much."""
    if not rows or not rows[0]["robust_draws"]:
        return
    best = _as_draws(rows[0])
    for row in rows:
        row["tied_with_best"] = (
            row["robust_draws"] is not None
            and row["grounded"] == rows[0]["grounded"]
            and not is_behind(_as_draws(row), best, STUDENT_T[confidence])
        )


def _as_draws(row: Row) -> Draws:
    """A figure that is per dollar already."""
    return Draws(row["robust"], (), tuple(row["robust_draws"]), 1.0)


def _undrawn(rows: Sequence[Row], objective: Objective) -> int:
    """How many are near the best and have no draws under each trace to tell."""
    if not objective.higher_is_better:
        return 0
    return sum(
        row["robust_draws"] is None and row["robust"] >= CONTENDER * rows[0]["robust"]
        for row in rows
    )


def _tie(rank: int, row: Row) -> Row:
    """What would tell a row from the best: whatever most of its interval under its worst trace is of."""
    shares = row.get("interval_sources") or {"trace": 1.0}
    by = "more trace" if shares["trace"] >= HALF else "profiling"
    told = "more of the traces" if by == "more trace" else "profiling its kernels"
    name = f"#{rank} ({row['sku']} TP {row['tp']}, {row['max_num_seqs']} sequences)"
    text = f"{told} would tell {name} from the best"
    return {"rank": rank, "told_apart_by": by, "operators": [], "text": text}


def _infeasible(traces: Sequence[Weighted]) -> list[Row]:
    """What some trace refuses, each refusal once, with the trace that it is of."""
    found: dict[str, Row] = {}
    for each in traces:
        for miss in each.result["infeasible"]:
            configuration = repr([miss.get(name) for name in IDENTITY])
            found.setdefault(configuration, {**miss, "reason": f"{each.name}: {miss['reason']}"})
    return list(found.values())


def _otherwise_limited(traces: Sequence[Weighted]) -> list[Row]:
    """Pairs that carry every trace, but by other limits each: one deployment has one."""
    places: list[dict[tuple[Any, ...], Row]] = [
        {_key(row, PLACE): row for row in each.result["ranked"] if row.get("decode")}
        for each in traces
    ]
    found = []
    for key, row in places[0].items():
        others = [place[key] for place in places if key in place]
        if len(others) == len(places) and len({_key(each) for each in others}) > 1:
            limits = "; ".join(
                f"{trace.name}: {_limits(other)}"
                for trace, other in zip(traces, others, strict=True)
            )
            reason = f"the traces want other limits: {limits}; ask for one of each to compare"
            found.append({**{name: row[name] for name in IDENTITY}, "reason": reason})
    return found


def _limits(row: Row) -> str:
    tokens, seqs = row["prefill"]["max_batched_tokens"], row["decode"]["max_num_seqs"]
    return f"{tokens} tokens a prefill step, {seqs} decodes at once"
