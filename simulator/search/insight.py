"""Why the best is best and what would change it: runs started together, read when they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import inf

from servecast.compiler.ir import Collective
from servecast.compiler.memory import plan_memory
from servecast.compiler.sharded import ShardedProgram
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.found import PairCarried
from servecast.simulator.search.outcome import AnyOutcome, PairOutcome, ShapeOf, TablesFor
from servecast.simulator.search.pair_worker import Alone, PairTask, Role, pair_if
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.rows import Row
from servecast.simulator.search.sensitivity import (
    HIGH,
    LOW,
    SWEPT,
    Deployment,
    Swept,
    pareto,
    slo_cost,
    start_prices,
    start_sweeps,
    start_tornado,
)
from servecast.simulator.search.serving import Serving
from servecast.simulator.search.space import UTILISATION, Candidate, Placement
from servecast.simulator.search.task import Demand
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
    tables_for: TablesFor
    shape_of: ShapeOf
    balanced: bool  # how many replicas of each role there are: see `PairTask`

    def explained(self, ranking: Ranking) -> Ranking:
        """The ranking with ``explanation`` and ``sensitivity`` of its best."""
        deployments = [
            Deployment(index + 1, ranking.ranked[index], self._serving(ranking.outcomes[index]))
            for index in representatives(ranking.ranked)
        ]
        best, outcome = deployments[0], ranking.outcomes[0]
        sweeps = start_sweeps(self.pool, deployments)
        told = self._start_explanation(outcome, best)
        tornado = self._tornado(outcome, best)
        swept = [
            Swept(deployment, tuple(task.result()))
            for deployment, task in zip(deployments, sweeps, strict=True)
        ]
        output_tokens = float(self.demand.searched.output_tokens.mean())
        return replace(
            ranking,
            explanation=told(),
            sensitivity={
                "slo_cost": slo_cost(swept, self.demand.slos, output_tokens),
                "pareto": pareto(swept, ranking.ranked, output_tokens),
                "pareto_axes": {"ttft_s": "p90", "tbt_s": "p99"},
                "tornado": tornado,
                "tornado_base": best.row["qps_per_usd_hour"],
                "tornado_unit": "qps_per_usd_hour",
            },
        )

    def explanation_of(self, outcome: AnyOutcome, row: Row) -> Row:
        """Where the time of any configuration goes at its capacity, and its shadow prices."""
        return self._start_explanation(outcome, Deployment(1, row, self._serving(outcome)))()

    def _start_explanation(self, outcome: AnyOutcome, best: Deployment) -> Callable[[], Row]:
        """Its runs, started together; the explanation waits for them."""
        prices = start_prices(self.pool, best, self.demand.slos, roomy(outcome, best.serving))
        parts = self._start_breakdown(outcome, best)

        def told() -> Row:
            return explanation(parts.result(), prices.rows())

        return told

    def _start_breakdown(self, outcome: AnyOutcome, best: Deployment) -> Future[Breakdown]:
        silent = [
            self.tables_for(replace(each, sharded=without_communication(each.sharded)))
            for each in outcome.placements
        ]
        return self.pool.submit(breakdown, best.serving, best.row["qps"], silent)

    def _at_rates(self, outcome: AnyOutcome, best: Deployment) -> list[Future[float]]:
        """Requests per dollar of what would carry the trace at a lower and a higher rate."""
        serving = best.serving
        if isinstance(serving, Fleet):
            placement, setting = outcome.placements[0], outcome.candidates[0].setting
            one = (serving.tables, setting, self.shape_of(placement))
            return [self.pool.submit(deployment_if, *one, factor) for factor in (LOW, HIGH)]
        assert isinstance(outcome, PairOutcome)
        tables = (serving.prefill.tables, serving.decode.tables)
        task = self._pair_task(outcome)
        return [self.pool.submit(pair_if, *tables, task, factor) for factor in (LOW, HIGH)]

    def _pair_task(self, outcome: PairOutcome) -> PairTask:
        found, pairing = outcome.found, outcome.pairing
        assert isinstance(found, PairCarried)
        prefill, decode = (
            Role(
                self.shape_of(placement),
                Alone(pool.candidate, candidate.setting, pool.replica_rate_per_s, inf),
            )
            for placement, candidate, pool in zip(
                outcome.placements, outcome.candidates, (found.prefill, found.decode), strict=True
            )
        )
        return PairTask(prefill, decode, pairing.link, pairing.room, self.balanced)

    def _tornado(self, outcome: AnyOutcome, best: Deployment) -> list[Row]:
        """Requests per dollar at both ends of each input, the widest first."""
        rates = self._at_rates(outcome, best)
        usd_per_hour = best.row["usd_per_hour"]
        rows = [
            tornado_row(bar.name, *bar.factors, *(end.result() / usd_per_hour for end in bar.ends))
            for bar in start_tornado(self.pool, best)
        ]
        rows.append(tornado_row("request rate", LOW, HIGH, *(each.result() for each in rates)))
        return sorted(rows, key=lambda row: -abs(row["at_high"] - row["at_low"]))

    def _serving(self, outcome: AnyOutcome) -> Serving:
        return outcome.serving(self.tables_for, self.shape_of)


def representatives(ranked: Sequence[Row]) -> list[int]:
    """The places of the best of each placement and token budget; the first is the best of all."""
    first: dict[tuple[object, ...], int] = {}
    keys = ("sku", "precision", "tp", "pp", "ep", "dp", "max_batched_tokens")
    for index, row in enumerate(ranked):
        roles = (str(row.get(role)) for role in ("prefill", "decode"))
        first.setdefault((*(row[key] for key in keys), *roles), index)
    return list(first.values())[:SWEPT]


def roomy(outcome: AnyOutcome, serving: Serving) -> Serving:
    """The deployment with a tenth more GPU memory, all of it cache."""
    if isinstance(serving, Fleet):
        return _roomy(outcome.placements[0], outcome.candidates[0], serving)
    fleets = (serving.prefill, serving.decode)
    prefill, decode = map(_roomy, outcome.placements, outcome.candidates, fleets)
    return replace(serving, prefill=prefill, decode=decode)


def _roomy(placement: Placement, candidate: Candidate, fleet: Fleet) -> Fleet:
    sku, limits = placement.sku, fleet.limits
    planned = plan_memory(
        placement.sharded,
        round(ROOM * sku.memory_bytes),
        utilisation=UTILISATION,
        max_batched_tokens=limits.max_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
        block_tokens=limits.block_tokens,
    )
    planned = replace(planned, sequence_tokens=candidate.memory.sequence_tokens)
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
