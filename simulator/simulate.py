"""One configuration under one workload, simulated once: the run's records and its summary.

Reads no files of the user's and writes none; `simulate_job` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import InfeasibleError, UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.program import Program
from servecast.compiler.service import Slo
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables, time_by_source
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.kv_tiers import AskedTier
from servecast.simulator.engine.modes import NO_MODES, Modes
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import Targets
from servecast.simulator.metrics.classes import by_class
from servecast.simulator.metrics.operators import operator_rows, operators
from servecast.simulator.metrics.outcome import Deployed, outcome
from servecast.simulator.search.serving import step_work
from servecast.simulator.search.space import Axes, Placement, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.workload import Workload

SCHEMA_VERSION = 1
Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class Setup:
    """The configuration to simulate. ``kv_blocks`` None: as many as fit beside the weights.

    ``dp`` counts the engines of one replica, which share its experts: each schedules for itself.
    ``slos`` ask for goodput, ``class_slos`` (priority, target) bind a class's requests alone; the grid's
    intensity asks for carbon. ``drafter`` drafts, where the modes speculate and say no cost: it runs at the
    replica's tensor parallelism. ``clients`` send one request after the other, ``pause_s`` after an answer;
    the trace's times do not count then. With ``operators`` the summary tells what each of the model's took.

    Raises:
        UserError: a time or the grid's intensity is none.
    """

    program: Program
    sku: str
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    max_num_seqs: int = 256
    max_batched_tokens: int = 2048
    replicas: int = 1
    router: str = "least_outstanding"
    policy: str = "vllm_v1"
    kv_blocks: int | None = None
    async_scheduling: bool = False
    prefix_caching: bool | None = None
    max_queue: int | None = None
    queue_timeout_s: float | None = None
    slos: tuple[Slo, ...] = ()
    class_slos: tuple[tuple[int, Slo], ...] = ()
    carbon_g_per_kwh: float | None = None
    modes: Modes = NO_MODES
    drafter: Program | None = None
    kv_tiers: tuple[AskedTier, ...] = ()
    sequence_parallel: bool = False
    clients: int | None = None
    pause_s: float = 0.0
    operators: bool = False

    def __post_init__(self) -> None:
        for name in ("carbon_g_per_kwh", "queue_timeout_s", "pause_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise UserError(f"{name} must be a number from 0 up, got {value:g}")


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """``summary`` is the object of ``docs/simulate.md`` without the provenance of its reading."""

    workload: Workload
    records: Records
    summary: Row


def simulate_setup(
    setup: Setup,
    skus: Mapping[str, Sku],
    workload: Workload,
    loader: TableLoader,
    loaded_tokens: NDArray[np.int64] | None = None,
) -> Simulated:
    """Run the workload on the configuration; ``loaded_tokens`` of each prompt are cached already.

    Raises:
        InfeasibleError: the model does not fit it.
        UserError: an unknown SKU, router or policy, or limits that contradict each other.
    """
    Targets(setup.slos, setup.class_slos).check(workload)
    placement = place(setup, skus, workload.mean_sequence_tokens)
    limits = placement.candidates[0].limits
    loader.expect_lengths(workload.prompt_tokens, workload.output_tokens)
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    modes = _with_tiers(_with_drafter(setup, placement, loader), setup, limits, workload)
    fleet = Fleet(tables, limits, setup.replicas * setup.dp, setup.router, setup.policy, modes)
    records = Engine().run(
        workload,
        fleet,
        loaded_tokens=loaded_tokens,
        concurrency=setup.clients,
        client_s=setup.pause_s,
    )
    seconds = time_by_source(tables, step_work(records))
    total_s = sum(seconds.values())
    ran = deployed(setup, placement, tables)
    ended = outcome(ran, workload, records)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "configuration": configuration_json(setup, placement),
        "workload": asdict(describe(workload)),
        **ended,
        "classes": by_class(records, workload, ran.targets, ended["duration_s"] or nan),
        "modes": dict(records.modes),
        "operators": operators_json(setup, placement, loader, (tables, records)),
        "time_by_source": {name: s / total_s for name, s in seconds.items()} if total_s else {},
        "provenance": {
            "operator_times": loader.provenance(placement.sku),
            "notes": list(loader.notes(placement.sku)),
        },
    }
    return Simulated(workload, records, summary)


def operators_json(
    setup: Setup, placement: Placement, loader: TableLoader, ran: tuple[RuntimeTables, Records]
) -> list[Row] | None:
    """A row an operator, the longest first; None: nobody asked, or the steps do not tell."""
    if not setup.operators:
        return None
    each = loader.operators(placement.sharded, placement.sku, bounds(placement))
    uses = operators(each, *ran)
    return None if uses is None else operator_rows(uses, placement.sku)


def _with_drafter(setup: Setup, placement: Placement, loader: TableLoader) -> Modes:
    """The modes, with the drafter's own times."""
    speculation = setup.modes.speculation
    if setup.drafter is None or speculation is None:
        return setup.modes
    sharded = shard(setup.drafter, Parallelism(tp=setup.tp))
    tables = loader.tables(sharded, placement.sku, bounds(placement))
    return replace(setup.modes, speculation=replace(speculation, drafter=tables))


def _with_tiers(modes: Modes, setup: Setup, limits: EngineLimits, workload: Workload) -> Modes:
    """The modes, with the tiers in blocks of the model's."""
    if not setup.kv_tiers:
        return modes
    if not limits.caches_prefixes_of(workload.prefix is not None):
        raise UserError(
            "kv_tiers without prefix_caching: tiers keep what a prefix cache drops, and there is one where "
            "the trace has block hashes or it is asked for"
        )
    block_bytes = setup.program.kv_bytes_per_token * limits.block_tokens
    return replace(modes, tiers=tuple(tier.tier(block_bytes) for tier in setup.kv_tiers))


def mtp_module(program: Program) -> Program:
    """What predicts one more token: one more layer, with the model's embedding and head (DeepSeek-AI 2024,
    DeepSeek-V3 technical report, section 2.2; the projection before it is left out)."""
    return replace(program, layers=(replace(program.layers[-1], count=1),))


def place(setup: Setup, skus: Mapping[str, Sku], sequence_tokens: int | None = None) -> Placement:
    """The one placement, with the one candidate, that the setup describes, for requests of a mean length.

    Raises:
        InfeasibleError: it cannot run, and why.
    """
    axes = Axes(
        skus=(setup.sku,),
        tp=(setup.tp,),
        pp=(setup.pp,),
        ep=(setup.ep,),
        dp=(setup.dp,),
        max_num_seqs=(setup.max_num_seqs,),
        max_batched_tokens=(setup.max_batched_tokens,),
        policies=(setup.policy,),
    )
    gpus = setup.tp * setup.pp * setup.dp
    space = enumerate_space(setup.program, axes, skus, gpus, sequence_tokens)
    if not space.placements:
        miss = space.infeasible[0]
        where = f"{setup.program.model} on {miss.sku} with tp={miss.tp} pp={miss.pp}"
        raise InfeasibleError(f"{where}: {miss.reason}")
    placement = _scattered(setup, space.placements[0])
    candidate = placement.candidates[0]
    limits = replace(
        candidate.limits,
        async_scheduling=setup.async_scheduling,
        prefix_caching=setup.prefix_caching,
        max_queue=setup.max_queue,
        queue_timeout_s=setup.queue_timeout_s,
    )
    if setup.kv_blocks is not None:
        limits = replace(limits, kv_blocks=setup.kv_blocks)
    return replace(placement, candidates=(replace(candidate, limits=limits),))


def _scattered(setup: Setup, placement: Placement) -> Placement:
    """With a reduce-scatter and an all-gather for each all-reduce, where that was asked for."""
    if not setup.sequence_parallel:
        return placement
    if setup.tp == 1:
        raise UserError("sequence_parallel with tp=1: a tensor-parallel rank's rows are scattered")
    degrees = replace(placement.parallelism, sequence=True)
    return replace(placement, sharded=shard(setup.program, degrees))


def deployed(setup: Setup, placement: Placement, tables: RuntimeTables) -> Deployed:
    return Deployed(
        placement.sharded,
        tables,
        placement.sku,
        placement.candidates[0].limits,
        setup.replicas * placement.parallelism.gpus,
        Targets(setup.slos, setup.class_slos),
        setup.carbon_g_per_kwh,
    )


def configuration_json(setup: Setup, placement: Placement) -> Row:
    limits = placement.candidates[0].limits
    gpus = setup.replicas * placement.parallelism.gpus
    return {
        "model": setup.program.model,
        "sku": setup.sku,
        "tp": setup.tp,
        "pp": setup.pp,
        "ep": setup.ep,
        "dp": setup.dp,
        "sequence_parallel": setup.sequence_parallel,
        "replicas": setup.replicas,
        "router": setup.router,
        "policy": setup.policy,
        "max_num_seqs": limits.max_num_seqs,
        "max_batched_tokens": limits.max_batched_tokens,
        "kv_blocks": limits.kv_blocks,
        "block_tokens": limits.block_tokens,
        "gpus": gpus,
        "usd_per_hour": gpus * placement.sku.usd_per_hour,
    }
