"""The main job, from a question and a workload to the answer: space, tables, search, ranking.

Reads no files of the user's and prints nothing; the command line does both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from servecast.compiler.errors import InfeasibleError
from servecast.compiler.memory import plan_memory
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.arrivals import bootstrap
from servecast.simulator.metrics import ReplicaMetrics, summarise
from servecast.simulator.routing import Engine
from servecast.simulator.search.confidence import RESAMPLES, confidences
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.question import Question
from servecast.simulator.search.result import Ranking, assemble, rank
from servecast.simulator.search.rows import Row
from servecast.simulator.search.run import Outcome, resampled, search
from servecast.simulator.search.space import BLOCK_TOKENS, UTILISATION, Placement, Space
from servecast.simulator.search.worker import Demand, Shape
from servecast.simulator.workload import Workload
from servecast.simulator.workload_summary import describe

MIN_REQUESTS = 10_000
"""A capacity found on fewer rests on the trace's first minutes; shorter traces are resampled."""

Progress = Callable[[int, int, str], None]  # configurations done, in all, what is going on


@dataclass(frozen=True, slots=True)
class Means:
    """What a search works with, beside its question."""

    loader: TableLoader
    pool_for: Callable[[Demand], Pool]
    progress: Progress


def plan(question: Question, workload: Workload, means: Means, versions: Row) -> Row:
    """The answer's JSON object.

    Raises:
        InfeasibleError: the model fits on none of the GPUs asked for.
    """
    started = time.perf_counter()
    space = question.space(workload.mean_sequence_tokens)
    if not space.placements:
        raise InfeasibleError(nothing_fits(question, space))
    searched = workload
    if len(workload) < MIN_REQUESTS:
        searched = bootstrap(workload, MIN_REQUESTS, question.seed)
    ranking = _ranking(question, space, question.demand(workload, searched), means)
    skus = {placement.sku.name: placement.sku for placement in space.placements}
    loader = means.loader
    return assemble(
        ranking,
        best_at_trace_rate=_at_trace_rate(question, ranking, workload, loader),
        workload={**asdict(describe(workload)), "searched_requests": len(searched)},
        question=question.json(),
        provenance={
            "operator_times": {name: loader.provenance(sku) for name, sku in sorted(skus.items())},
            "notes": sorted({note for sku in skus.values() for note in loader.notes(sku)}),
            **versions,
        },
        elapsed_s=time.perf_counter() - started,
    )


def _ranking(question: Question, space: Space, demand: Demand, means: Means) -> Ranking:
    loader, progress = means.loader, means.progress
    for sku in {placement.sku.name: placement.sku for placement in space.placements}.values():
        loader.expect(sku, [p.sharded for p in space.placements if p.sku == sku])
    outcomes: list[Outcome] = []

    def tables_for(placement: Placement) -> RuntimeTables:
        progress(len(outcomes), len(space), f"{placement.label}: tables")
        return loader.tables(placement.sharded, placement.sku, bounds(placement))

    pool = means.pool_for(demand)
    finished = False
    try:
        for outcome in search(space.placements, tables_for, pool, lambda p: shape(question, p)):
            outcomes.append(outcome)
            progress(len(outcomes), len(space), "searching")
        ranking = rank(outcomes, space.infeasible, demand, question.market, question.objective)
        if ranking.ranked:
            progress(len(outcomes), len(space), "resampling the best")
            ranking = _with_confidence(question, ranking, tables_for, pool)
        finished = True
    finally:
        pool.close(now=not finished)
    return ranking


def _with_confidence(
    question: Question,
    ranking: Ranking,
    tables_for: Callable[[Placement], RuntimeTables],
    pool: Pool,
) -> Ranking:
    seeds = [question.seed + 1 + draw for draw in range(RESAMPLES)]
    contenders = ranking.contenders
    fleets = [
        shape(question, each.placement).fleet(
            tables_for(each.placement), each.candidate.setting, row["replicas"]
        )
        for each, row in zip(contenders, ranking.ranked, strict=False)
    ]
    points, prices = (
        [row[key] for row in ranking.ranked[: len(contenders)]] for key in ("qps", "usd_per_hour")
    )
    capacities = resampled(fleets, points, pool, seeds)
    return ranking.with_confidence(confidences(points, capacities, prices))


def shape(question: Question, placement: Placement) -> Shape:
    degrees = placement.parallelism
    return Shape(degrees.dp, question.market.most_replicas(placement.sku, degrees.gpus))


def bounds(placement: Placement) -> TableBounds:
    """What the tables of a placement must cover.

    The cache's bound, and with it the grid, is that of the smallest limits: a configuration's times do
    not depend on which others are searched beside it.
    """
    limits = [candidate.limits for candidate in placement.candidates]
    memory = placement.sku.memory_bytes
    largest = plan_memory(placement.sharded, memory, UTILISATION, 1, 1, BLOCK_TOKENS)
    largest = replace(largest, sequence_tokens=placement.candidates[0].memory.sequence_tokens)
    blocks = max(largest.kv_blocks, *(each.kv_blocks for each in limits))
    return TableBounds(
        max_batched_tokens=max(each.max_batched_tokens for each in limits),
        max_num_seqs=max(each.max_num_seqs for each in limits),
        max_context_tokens=placement.sharded.context_tokens,
        kv_capacity_tokens=blocks * BLOCK_TOKENS,
    )


def _at_trace_rate(
    question: Question, ranking: Ranking, workload: Workload, loader: TableLoader
) -> ReplicaMetrics | None:
    """The best configuration, all replicas, under the trace as it is."""
    if not ranking.outcomes:
        return None
    placement, candidate = ranking.outcomes[0].placement, ranking.outcomes[0].candidate
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    replicas = ranking.ranked[0]["replicas"]
    fleet = shape(question, placement).fleet(tables, candidate.setting, replicas)
    return summarise(Engine().run(workload, fleet))


def nothing_fits(question: Question, space: Space) -> str:
    """Which constraint empties the space, how often each does, and the first case of the commonest."""
    reasons = Counter(miss.constraint for miss in space.infeasible)
    counts = ", ".join(f"{count} by {constraint}" for constraint, count in reasons.most_common())
    commonest = reasons.most_common(1)[0][0]
    first = next(miss for miss in space.infeasible if miss.constraint == commonest)
    return (
        f"{question.program.model} runs on none of the configurations asked for: refused are {counts}. "
        f"{first.sku} tp={first.tp} pp={first.pp}: {first.reason}"
    )
