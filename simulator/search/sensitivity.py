"""What targets, traffic and hardware are worth: curves and prices from a few more runs of the contenders.

The targets' curves and the frontier come of one sweep over the rate for each of a few deployments: a run
at one rate tells what every target would have to be there, so no target is searched for again. To the
frontier the search's own runs belong, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import inf
from operator import itemgetter

import numpy as np

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.capacity import QUEUE_DELAY
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.rows import Row, slo_text
from servecast.simulator.search.serving import Serving
from servecast.simulator.search.whatif import Circumstance, Point, capacity_if, sweep

SWEPT = 8
"""Deployments whose latencies are swept: the best of each placement and token budget."""
RATES = (0.3, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15)
"""Of a deployment's capacity."""
LIMITS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
"""Of a target's limit."""
LOW, HIGH = 0.8, 1.25
STEP = 0.1
RESOLUTION = 0.001
"""Of a shadow price: less is not told from nothing by capacities that are refined to 0.06 %."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A ranked configuration as it runs."""

    rank: int
    row: Row
    serving: Serving

    @property
    def label(self) -> str:
        return label(self.row)


def label(row: Row) -> str:
    """Of both roles where they are apart."""
    parts = [row[role] for role in ("prefill", "decode") if role in row]
    return " + ".join(_label(part) for part in parts or [row])


def _label(row: Row) -> str:
    batch = f"{row['max_num_seqs']}/{row['max_batched_tokens']}"
    return f"{row['gpus']} × {row['sku']} TP {row['tp']} PP {row['pp']} {batch}"


@dataclass(frozen=True, slots=True)
class Swept:
    deployment: Deployment
    points: tuple[Point, ...]  # by rising rate

    def capacity_per_s(self, limits_s: Sequence[float]) -> float:
        """The highest rate that keeps all limits, between its points; 0 where the first breaks one."""
        rates = [point.rate_per_s for point in self.points]
        reached = rates[-1] if rates else 0.0
        for target, limit_s in enumerate(limits_s):
            values = np.maximum.accumulate([point.values_s[target] for point in self.points])
            if len(values) == 0 or values[0] > limit_s:
                return 0.0
            if values[-1] > limit_s:
                reached = min(reached, float(np.interp(limit_s, values, rates)))
        return reached


def start_sweeps(pool: Pool, deployments: Sequence[Deployment]) -> list[Future[list[Point]]]:
    return [
        pool.submit(sweep, each.serving, [share * each.row["qps"] for share in RATES])
        for each in deployments
    ]


def slo_cost(swept: Sequence[Swept], slos: Sequence[Slo], output_tokens: float) -> list[Row]:
    """For each target the least cost of a token by its limit, the other targets as they are.

    Beyond the asked limit at most so much: what the asked one refused was never swept, nor were rates far
    above the capacities found.
    """
    curves = []
    limits_s = [slo.limit_s for slo in (*slos, QUEUE_DELAY)]
    for index, slo in enumerate(slos):
        points = []
        for factor in LIMITS:
            asked = [*limits_s[:index], factor * slo.limit_s, *limits_s[index + 1 :]]
            found = _cheapest(swept, asked, factor * slo.limit_s, output_tokens)
            points.append({**found, "at_most": factor > 1})
        curves.append({"slo": slo_text(slo).rsplit(" < ")[0], "points": points})
    return curves


def _cheapest(
    swept: Sequence[Swept], limits_s: Sequence[float], limit_s: float, output_tokens: float
) -> Row:
    rates = [each.capacity_per_s(limits_s) for each in swept]
    values = [rate / s.deployment.row["usd_per_hour"] for rate, s in zip(rates, swept, strict=True)]
    best = int(np.argmax(values)) if values else 0
    if not values or values[best] == 0:
        return {"limit_s": limit_s, "usd_per_million_output_tokens": None}
    deployment = swept[best].deployment
    return {
        "limit_s": limit_s,
        "usd_per_million_output_tokens": 1e6 / (values[best] * 3600 * output_tokens),
        "qps_per_usd_hour": values[best],
        "rank": deployment.rank,
        "configuration": deployment.label,
    }


def pareto(swept: Sequence[Swept], ranked: Sequence[Row], output_tokens: float) -> list[Row]:
    """The points that no other beats in TTFT p90, TBT p99 and cost at once, the cheapest first.

    They are of the sweeps, and of every ranked configuration's run at its capacity.
    """
    rows = [
        {
            "rank": index + 1,
            "configuration": label(row),
            "ttft_s": row["metrics"]["ttft_s"]["p90"],
            "tbt_s": row["metrics"]["tbt_s"]["p99"],
            "usd_per_million_output_tokens": row["usd_per_million_output_tokens"],
            "rate_per_s": row["qps"],
        }
        for index, row in enumerate(ranked)
        if row["metrics"]["tbt_s"]["p99"] is not None  # no request has a second token
    ]
    for each in swept:
        usd_per_hour = each.deployment.row["usd_per_hour"]
        for point in each.points:
            if point.values_s[-1] <= QUEUE_DELAY.limit_s:
                cost = usd_per_hour / (point.rate_per_s * output_tokens * 3600) * 1e6
                rows.append(
                    {
                        "rank": each.deployment.rank,
                        "configuration": each.deployment.label,
                        "ttft_s": point.ttft_s,
                        "tbt_s": point.tbt_s,
                        "usd_per_million_output_tokens": cost,
                        "rate_per_s": point.rate_per_s,
                    }
                )
    rows.sort(key=itemgetter("usd_per_million_output_tokens", "ttft_s", "tbt_s"))
    front: list[Row] = []
    for row in rows:  # none that costs more beats one that costs less
        if not any(f["ttft_s"] <= row["ttft_s"] and f["tbt_s"] <= row["tbt_s"] for f in front):
            front.append(row)
    return front


def changes(
    slos: Sequence[Slo], roomy: Serving
) -> Mapping[str, tuple[str, Serving | None, Circumstance]]:
    """The circumstances of the shadow prices: (what changes, what serves if it does, the rest)."""
    found: dict[str, tuple[str, Serving | None, Circumstance]] = {}
    for index, slo in enumerate(slos):
        looser = replace(slo, limit_s=(1 + STEP) * slo.limit_s)
        asked = (*slos[:index], looser, *slos[index + 1 :])
        name = slo_text(slo).rsplit(" < ")[0]
        found[name] = (f"+{STEP:.0%}", None, Circumstance(slos=asked))
    found["GPU memory"] = (f"+{STEP:.0%}", roomy, Circumstance())
    found["prefix-cache hits"] = ("+10 points", None, Circumstance(prefix_hits=STEP))
    return found


@dataclass(frozen=True, slots=True)
class Prices:
    """Refined capacities as a deployment is, and with a little more of each thing: (name, change, …)."""

    as_it_is: Future[float]
    changed: tuple[tuple[str, str, Future[float]], ...]

    def rows(self) -> list[Row]:
        """Waits for them."""
        old_per_s = self.as_it_is.result()
        return [
            price_row(name, what, old_per_s, task.result()) for name, what, task in self.changed
        ]


def start_prices(pool: Pool, best: Deployment, slos: Sequence[Slo], roomy: Serving) -> Prices:
    def start(serving: Serving, change: Circumstance) -> Future[float]:
        return pool.submit(capacity_if, serving, best.row["qps"], change, True)

    as_it_is = start(best.serving, Circumstance())
    changed = (
        (name, what, start(serving or best.serving, change))
        for name, (what, serving, change) in changes(slos, roomy).items()
    )
    return Prices(as_it_is, tuple(changed))


def price_row(name: str, change: str, old_per_s: float, new_per_s: float) -> Row:
    """``qps``: the relative change of the capacity; the cost of a token changes by its inverse."""
    qps = new_per_s / old_per_s - 1
    cost = old_per_s / new_per_s - 1 if new_per_s else inf
    return {
        "input": name,
        "change": change,
        "qps": qps,
        "usd_per_million_output_tokens": cost if cost < inf else None,
        "text": f"{name} {change}: capacity {share_text(qps)}, cost of a token {share_text(cost)}",
    }


def share_text(share: float) -> str:
    """A relative change, or that it is too small to be told from none."""
    return f"{share:+.1%}" if abs(share) >= RESOLUTION else f"< {RESOLUTION:.1%}"


@dataclass(frozen=True, slots=True)
class Bar:
    """An input of the tornado at two factors (values, for burstiness), and the capacities there."""

    name: str
    factors: tuple[float, float]
    ends: tuple[Future[float], ...]


def start_tornado(pool: Pool, best: Deployment) -> list[Bar]:
    """The capacity of the deployment as it is, under other lengths, times and arrivals."""
    serving, plain = best.serving, Circumstance()
    inputs: dict[str, list[tuple[float, Serving, Circumstance]]] = {
        "prompt length": [(x, serving, Circumstance(prompt=x)) for x in (LOW, HIGH)],
        "output length": [(x, serving, Circumstance(output=x)) for x in (LOW, HIGH)],
        "operator times": [(x, _slower(serving, x), plain) for x in (1 - STEP, 1 + STEP)],
        "burstiness (CV)": [(x, serving, Circumstance(arrival_cv=x)) for x in (0.5, 2.0)],
    }
    bars = []
    for name, ends in inputs.items():
        tasks = (
            pool.submit(capacity_if, each, best.row["qps"], change) for _, each, change in ends
        )
        bars.append(Bar(name, (ends[0][0], ends[1][0]), tuple(tasks)))
    return bars


def _slower(serving: Serving, factor: float) -> Serving:
    if isinstance(serving, Fleet):
        return replace(serving, tables=scaled(serving.tables, factor))
    fleets = (serving.prefill, serving.decode)
    prefill, decode = (replace(each, tables=scaled(each.tables, factor)) for each in fleets)
    return replace(serving, prefill=prefill, decode=decode)


def scaled(tables: RuntimeTables, factor: float) -> RuntimeTables:
    """All times on the GPU by a factor."""
    return replace(
        tables,
        token_s=tables.token_s * factor,
        sequence_s=tables.sequence_s * factor,
        prefill_s=tables.prefill_s * factor,
        prefill_base_s=tables.prefill_base_s * factor,
        decode_s=tables.decode_s * factor,
        send_s=tables.send_s * factor,
    )
