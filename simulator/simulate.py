"""One configuration under one workload, simulated once: the run's records and its summary.

Reads no files of the user's and writes none; `simulate_job` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import InfeasibleError
from servecast.compiler.hardware import Sku
from servecast.compiler.program import Program
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import time_by_source
from servecast.simulator.deployment import EngineLimits
from servecast.simulator.flops import flops_model
from servecast.simulator.metrics import ReplicaMetrics, summarise
from servecast.simulator.records import Records
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.rows import metrics_json
from servecast.simulator.search.space import Axes, Placement, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.search.worker import step_work
from servecast.simulator.workload import Workload
from servecast.simulator.workload_summary import describe

SCHEMA_VERSION = 1
MAX_NAMED = 20
"""Rejected requests that the summary names; the requests table has all of them."""

Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class Setup:
    """The configuration to simulate. ``kv_blocks`` None: as many as fit beside the weights.

    ``dp`` counts the engines of one replica, which share its experts: each schedules for itself.
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
    prefix_caching: bool = False


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
    placement = place(setup, skus, workload.mean_sequence_tokens)
    limits = placement.candidates[0].limits
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    fleet = Fleet(tables, limits, setup.replicas * setup.dp, setup.router, setup.policy)
    records = Engine().run(workload, fleet, loaded_tokens=loaded_tokens)
    seconds = time_by_source(tables, step_work(records))
    total_s = sum(seconds.values())
    summary = {
        "schema_version": SCHEMA_VERSION,
        "configuration": _configuration(setup, placement),
        "workload": asdict(describe(workload)),
        **_outcome(placement, setup, workload, records),
        "time_by_source": {name: s / total_s for name, s in seconds.items()} if total_s else {},
        "provenance": {
            "operator_times": loader.provenance(placement.sku),
            "notes": list(loader.notes(placement.sku)),
        },
    }
    return Simulated(workload, records, summary)


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
    placement = space.placements[0]
    candidate = placement.candidates[0]
    ahead, caching = setup.async_scheduling, setup.prefix_caching
    limits = replace(candidate.limits, async_scheduling=ahead, prefix_caching=caching)
    if setup.kv_blocks is not None:
        limits = replace(limits, kv_blocks=setup.kv_blocks)
    return replace(placement, candidates=(replace(candidate, limits=limits),))


def _configuration(setup: Setup, placement: Placement) -> Row:
    limits = placement.candidates[0].limits
    gpus = setup.replicas * placement.parallelism.gpus
    return {
        "model": setup.program.model,
        "sku": setup.sku,
        "tp": setup.tp,
        "pp": setup.pp,
        "ep": setup.ep,
        "dp": setup.dp,
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


def _outcome(placement: Placement, setup: Setup, workload: Workload, records: Records) -> Row:
    metrics = summarise(records)
    gpus = setup.replicas * placement.parallelism.gpus
    usd_per_s = gpus * placement.sku.usd_per_hour / 3600
    return {
        "requests": {
            "arrived": len(workload),
            "finished": metrics.num_finished,
            "rejected": metrics.num_rejected,
            "unfinished": metrics.num_unfinished,
        },
        "rejected": _rejected(workload, records, placement.candidates[0].limits),
        "metrics": metrics_json(metrics),
        "duration_s": _finite(metrics.duration_s),
        "requests_per_s": _finite(metrics.requests_per_s),
        "output_tokens_per_s": _finite(metrics.output_tokens_per_s),
        "usd_per_million_output_tokens": _finite(
            usd_per_s / metrics.output_tokens_per_s * 1e6 if metrics.output_tokens_per_s else None
        ),
        "steps": len(records.steps),
        "mean_batch": _finite(metrics.mean_batch),
        "mean_tokens": _finite(metrics.mean_tokens),
        "kv_use": {"mean": _finite(metrics.kv_use_mean), "peak": _finite(metrics.kv_use_peak)},
        "busy": _finite(metrics.busy),
        "preemptions": metrics.preemptions,
        "stable": metrics.stable,
        "mfu": _finite(_mfu(placement, setup, records, metrics)),
    }


def _rejected(workload: Workload, records: Records, limits: EngineLimits) -> list[Row]:
    """The first requests that no empty cache could hold, by name."""
    named = records.rejected.nonzero()[0][:MAX_NAMED].tolist()
    kv_tokens = workload.prompt_tokens + workload.output_tokens - 1
    return [
        {
            "request": workload.where(i),
            "kv_blocks": int(-(-kv_tokens[i] // limits.block_tokens)),
            "reason": f"needs more than the {limits.kv_blocks} KV blocks there are",
        }
        for i in named
    ]


def _mfu(
    placement: Placement, setup: Setup, records: Records, metrics: ReplicaMetrics
) -> float | None:
    """Model FLOPs of the finished requests over the GPUs' peak (bf16, as the ranking's)."""
    peak = placement.sku.peak("bf16")
    if peak is None:
        return None
    done = records.finished
    model = flops_model(placement.sharded)
    flops = model.served(records.prompt_tokens[done], records.output_tokens[done]).sum()
    gpus = setup.replicas * placement.parallelism.gpus
    return float(flops / (metrics.duration_s * peak * gpus))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
