"""Why the best is best and what would change it: runs started together, read when they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from servecast.compiler.ir import Collective
from servecast.compiler.memory import plan_memory
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.rows import Row
from servecast.simulator.search.run import Outcome
from servecast.simulator.search.sensitivity import (
    HIGH,
    LOW,
    SWEPT,
    Deployment,
    Swept,
    pareto,
    price_row,
    slo_cost,
    start_prices,
    start_sweeps,
    start_tornado,
)
from servecast.simulator.search.space import UTILISATION, Placement
from servecast.simulator.search.task import Demand, Shape
from servecast.simulator.search.whatif import Breakdown, breakdown, deployment_if

ROOM = 1.1
"""Of the GPU's memory, for its shadow price."""
RESOURCES = {
    "prefill": "compute",
    "decode_weights": "memory bandwidth (weights)",
    "decode_kv": "memory bandwidth (KV cache)",
    "communication": "links",
    "host": "host",
    "bubbles": "pipeline bubbles",
}


@dataclass(frozen=True, slots=True)
class Insight:
    pool: Pool
    demand: Demand
    tables_for: Callable[[Placement], RuntimeTables]
    shape_of: Callable[[Placement], Shape]

    def explained(self, ranking: Ranking) -> Ranking:
        """The ranking with ``explanation`` and ``sensitivity`` of its best."""
        deployments = [
            Deployment(index + 1, ranking.ranked[index], self._fleet(ranking, index))
            for index in representatives(ranking.ranked)
        ]
        best, outcome = deployments[0], ranking.outcomes[0]
        sweeps = start_sweeps(self.pool, deployments)
        prices = start_prices(self.pool, best, self.demand.slos, roomy(outcome, best.fleet))
        parts = self._start_breakdown(outcome, best)
        tornado = self._tornado(outcome, best)
        swept = [
            Swept(deployment, tuple(task.result()))
            for deployment, task in zip(deployments, sweeps, strict=True)
        ]
        output_tokens = float(self.demand.searched.output_tokens.mean())
        rows = [
            price_row(name, what, best.row["qps"], task.result()) for name, what, task in prices
        ]
        return replace(
            ranking,
            explanation=explanation(parts.result(), rows),
            sensitivity={
                "slo_cost": slo_cost(swept, self.demand.slos, output_tokens),
                "pareto": pareto(swept, output_tokens),
                "pareto_axes": {"ttft_s": "p90", "tbt_s": "p99"},
                "tornado": tornado,
                "tornado_base": best.row["qps_per_usd_hour"],
                "tornado_unit": "qps_per_usd_hour",
            },
        )

    def _start_breakdown(self, outcome: Outcome, best: Deployment) -> Future[Breakdown]:
        placement = outcome.placement
        silent = replace(placement, sharded=without_communication(placement.sharded))
        tables = best.fleet.tables
        if silent != placement:
            tables = self.tables_for(silent)
        return self.pool.submit(breakdown, best.fleet, best.row["qps"], tables)

    def _tornado(self, outcome: Outcome, best: Deployment) -> list[Row]:
        """Requests per dollar at both ends of each input, the widest first."""
        shape, setting = self.shape_of(outcome.placement), outcome.candidate.setting
        rates = [
            self.pool.submit(deployment_if, best.fleet.tables, setting, shape, factor)
            for factor in (LOW, HIGH)
        ]
        usd_per_hour = best.row["usd_per_hour"]
        rows = [
            tornado_row(bar.name, *bar.factors, *(end.result() / usd_per_hour for end in bar.ends))
            for bar in start_tornado(self.pool, best)
        ]
        rows.append(tornado_row("request rate", LOW, HIGH, *(each.result() for each in rates)))
        return sorted(rows, key=lambda row: -abs(row["at_high"] - row["at_low"]))

    def _fleet(self, ranking: Ranking, index: int) -> Fleet:
        outcome, row = ranking.outcomes[index], ranking.ranked[index]
        tables = self.tables_for(outcome.placement)
        shape = self.shape_of(outcome.placement)
        return shape.fleet(tables, outcome.candidate.setting, row["replicas"])


def representatives(ranked: Sequence[Row]) -> list[int]:
    """The places of the best of each placement and token budget; the first is the best of all."""
    first: dict[tuple[object, ...], int] = {}
    keys = ("sku", "precision", "tp", "pp", "ep", "dp", "max_batched_tokens")
    for index, row in enumerate(ranked):
        first.setdefault(tuple(row[key] for key in keys), index)
    return list(first.values())[:SWEPT]


def roomy(outcome: Outcome, fleet: Fleet) -> Fleet:
    """The deployment with a tenth more GPU memory, all of it cache."""
    sku, limits = outcome.placement.sku, fleet.limits
    planned = plan_memory(
        outcome.placement.sharded,
        round(ROOM * sku.memory_bytes),
        utilisation=UTILISATION,
        max_batched_tokens=limits.max_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        block_tokens=limits.block_tokens,
    )
    planned = replace(planned, sequence_tokens=outcome.candidate.memory.sequence_tokens)
    return replace(fleet, limits=replace(limits, kv_blocks=planned.kv_blocks))


def without_communication(sharded: ShardedProgram) -> ShardedProgram:
    """The same launches but for the collectives of its layers, to see by the difference what those take."""
    stages = tuple(
        replace(
            stage,
            runs=tuple(
                run
                if run.name == "send"
                else replace(
                    run, calls=tuple(c for c in run.calls if not isinstance(c.op, Collective))
                )
                for run in stage.runs
            ),
        )
        for stage in sharded.stages
    )
    return replace(sharded, stages=stages)


def explanation(parts: Breakdown, prices: Sequence[Row]) -> Row:
    """Shares of the GPUs' time and of the requests' lives; the resource of the largest part at work."""
    gpu = _shares(parts.gpu_s)
    working = {name: share for name, share in gpu.items() if name in RESOURCES}
    largest = max(working, key=lambda name: working[name])
    return {
        "gpu_time": gpu,
        "request_time": _shares(parts.request_s),
        "resource": RESOURCES[largest],
        "shadow_prices": list(prices),
    }


def _shares(seconds: Sequence[tuple[str, float]]) -> dict[str, float]:
    total_s = sum(value for _, value in seconds)
    return {name: value / total_s if total_s else 0.0 for name, value in seconds}


def tornado_row(name: str, low: float, high: float, at_low: float, at_high: float) -> Row:
    return {"input": name, "low": low, "high": high, "at_low": at_low, "at_high": at_high}
