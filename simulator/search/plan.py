"""The main job, from a program and a workload to the answer: space, tables, search, ranking.

Reads no files of the user's and prints nothing; the command line does both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from servecast.compiler.errors import InfeasibleError
from servecast.compiler.hardware import Sku
from servecast.compiler.memory import plan_memory
from servecast.compiler.program import Program
from servecast.compiler.service import Service, Slo
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.arrivals import bootstrap
from servecast.simulator.metrics import ReplicaMetrics, summarise
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.confidence import RESAMPLES, confidences
from servecast.simulator.search.result import Ranking, Row, assemble, rank, slo_texts
from servecast.simulator.search.run import Outcome, Workers
from servecast.simulator.search.space import (
    BLOCK_TOKENS,
    UTILISATION,
    Axes,
    Placement,
    Space,
    enumerate_space,
)
from servecast.simulator.search.worker import ROUTER, Demand
from servecast.simulator.workload import Workload
from servecast.simulator.workload_summary import describe

DEFAULT_TP = (1, 2, 4, 8)
DEFAULT_PP = (1,)
DEFAULT_MAX_NUM_SEQS = (64, 128, 256)
DEFAULT_MAX_BATCHED_TOKENS = (512, 2048, 8192)
DEFAULT_MAX_GPUS = 16
MIN_REQUESTS = 10_000
"""A capacity found on fewer rests on the trace's first minutes; shorter traces are resampled."""

Progress = Callable[[int, int, str], None]  # configurations done, in all, what is going on


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one model under one workload."""

    program: Program
    skus: Mapping[str, Sku]
    axes: Axes
    slos: tuple[Slo, ...]
    max_gpus: int
    seed: int


def axes_of(service: Service | None, overrides: Service, default_skus: tuple[str, ...]) -> Axes:
    """The command line's values, else the service block's, else the defaults."""

    def chosen(name: str, default: tuple[Any, ...]) -> tuple[Any, ...]:
        said = getattr(service, name) if service else ()
        return tuple(dict.fromkeys(getattr(overrides, name) or said or default))

    return Axes(
        skus=chosen("skus", default_skus),
        tp=chosen("tp", DEFAULT_TP),
        pp=chosen("pp", DEFAULT_PP),
        max_num_seqs=chosen("max_num_seqs", DEFAULT_MAX_NUM_SEQS),
        max_batched_tokens=chosen("max_batched_tokens", DEFAULT_MAX_BATCHED_TOKENS),
        policies=("vllm_v1",),
    )


def plan(
    question: Question,
    workload: Workload,
    loader: TableLoader,
    *,
    jobs: int,
    progress: Progress,
    versions: Row,
) -> Row:
    """The answer's JSON object.

    Raises:
        InfeasibleError: the model fits on none of the GPUs asked for.
    """
    started = time.perf_counter()
    space = enumerate_space(
        question.program,
        question.axes,
        question.skus,
        question.max_gpus,
        workload.mean_sequence_tokens,
    )
    if not space.placements:
        raise InfeasibleError(_nothing_fits(question, space))
    searched = workload
    if len(workload) < MIN_REQUESTS:
        searched = bootstrap(workload, MIN_REQUESTS, question.seed)
    demand = Demand(workload, searched, question.slos, question.max_gpus)
    ranking = _ranking(question, space, demand, loader, jobs, progress)
    skus = {placement.sku.name: placement.sku for placement in space.placements}
    return assemble(
        ranking,
        best_at_trace_rate=_at_trace_rate(ranking, workload, loader),
        workload={**asdict(describe(workload)), "searched_requests": len(searched)},
        question=_question_json(question),
        provenance={
            "operator_times": {name: loader.provenance(sku) for name, sku in sorted(skus.items())},
            "notes": sorted({note for sku in skus.values() for note in loader.notes(sku)}),
            **versions,
        },
        elapsed_s=time.perf_counter() - started,
    )


def _ranking(
    question: Question,
    space: Space,
    demand: Demand,
    loader: TableLoader,
    jobs: int,
    progress: Progress,
) -> Ranking:
    for sku in {placement.sku.name: placement.sku for placement in space.placements}.values():
        loader.expect(sku, [p.sharded for p in space.placements if p.sku == sku])
    outcomes: list[Outcome] = []

    def tables_for(placement: Placement) -> RuntimeTables:
        degrees = placement.parallelism
        doing = f"{placement.sku.name} tp={degrees.tp} pp={degrees.pp}: tables"
        progress(len(outcomes), len(space), doing)
        return loader.tables(placement.sharded, placement.sku, bounds(placement))

    with Workers(demand, jobs) as workers:
        for outcome in workers.search(space.placements, tables_for):
            outcomes.append(outcome)
            progress(len(outcomes), len(space), "searching")
        ranking = rank(outcomes, space.infeasible, demand)
        if not ranking.ranked:
            return ranking
        progress(len(outcomes), len(space), "resampling the best")
        seeds = [question.seed + 1 + draw for draw in range(RESAMPLES)]
        capacities = workers.resampled(ranking.contenders, tables_for, seeds)
    rows = ranking.ranked[: len(capacities)]
    points, prices = ([row[key] for row in rows] for key in ("qps", "usd_per_hour"))
    return ranking.with_confidence(confidences(points, capacities, prices))


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
    ranking: Ranking, workload: Workload, loader: TableLoader
) -> ReplicaMetrics | None:
    """The best configuration, all replicas, under the trace as it is."""
    if not ranking.outcomes:
        return None
    placement, candidate = ranking.outcomes[0].placement, ranking.outcomes[0].candidate
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    replicas = ranking.ranked[0]["replicas"]
    fleet = Fleet(tables, candidate.limits, replicas, ROUTER)
    return summarise(Engine().run(workload, fleet))


def _nothing_fits(question: Question, space: Space) -> str:
    reasons = sorted(
        {f"{m.sku} tp={m.tp} pp={m.pp}: {m.reason}" for m in space.infeasible},
    )
    return f"{question.program.model} runs on none of the configurations asked for; {reasons[0]}"


def _question_json(question: Question) -> Row:
    return {
        "model": question.program.model,
        "source": question.program.source,
        "slos": slo_texts(question.slos),
        "axes": asdict(question.axes),
        "max_gpus": question.max_gpus,
        "seed": question.seed,
    }
