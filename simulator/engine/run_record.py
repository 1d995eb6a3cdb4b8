"""A run's constants and counters as the one record that the engine reads: see `state.Run`."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.prefix_path import PrefixPath
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routers import Routing
from servecast.simulator.engine.state import BUDGET, INFINITY, PICK, VICTIM, Run
from servecast.simulator.traffic.workload import Workload

# Without a livelock, the batches between two tokens are at most a few prefills' chunks per stage.
_STALLED_PER_CHUNK = 100


NO_LIMIT = 1 << 31
"""More requests than wait."""


def new_run(
    limits: EngineLimits,
    tables: RuntimeTables,
    workload: Workload,
    key: NDArray[np.int64],
    decided: Collection[int] = (),
) -> Run:
    """Without targets and clients; ``key``: of the requests that fit; ``decided``: what the user's functions
    decide."""
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    chunks = -(-longest // limits.max_batched_tokens)
    picking = PICK in decided
    ordered = bool(np.all(key[1:] > key[:-1])) and not picking
    return Run(
        max_num_seqs=limits.max_num_seqs,
        max_batched_tokens=limits.max_batched_tokens,
        kv_blocks=limits.kv_blocks,
        block_tokens=limits.block_tokens,
        block_rounding=limits.block_tokens - 1,
        block_shift=limits.block_tokens.bit_length() - 1,
        watermark_blocks=limits.watermark_blocks,
        reserve_prompt=int(limits.reserve_prompt),
        ahead=int(limits.async_scheduling),
        losing=int(limits.max_queue is not None or limits.queue_timeout_s is not None),
        queue_timeout_s=INFINITY if limits.queue_timeout_s is None else limits.queue_timeout_s,
        max_queue=NO_LIMIT if limits.max_queue is None else limits.max_queue,
        num_stages=tables.num_stages,
        days=1 << int(workload.output_tokens.max()).bit_length(),
        # In key order only the preempted are in the heap.
        max_waiting=limits.max_num_seqs if ordered else len(key),
        max_stalled=_STALLED_PER_CHUNK * tables.num_stages * (chunks + 1),
        ordered=int(ordered),
        picking=int(picking),
        choosing_victims=int(VICTIM in decided),
        budgeting=int(BUDGET in decided),
        num_requests=len(key),
        host_step_s=tables.host_step_s,
        per_context_step=1.0 / tables.context_step_tokens,
        per_chunk_step=1.0 / tables.chunk_step_tokens,
        per_kv_step=1.0 / tables.kv_step_tokens,
        num_tokens=tables.token_s.shape[1],
        num_sequences=tables.sequence_s.shape[1],
        num_contexts=tables.prefill_s.shape[1],
        num_chunks=tables.prefill_s.shape[2],
        num_kv=tables.decode_s.shape[2],
        num_mixed=tables.mixed_s.shape[1],
    )


def set_router(run: Run, routing: Routing, max_num_seqs: int) -> None:
    run.router = routing.router.rule
    run.by_tokens = int(routing.router.tokens)
    run.own, run.stale_s = int(routing.value("own") > 0), float(routing.value("stale_s"))
    run.limit = int(routing.value("limit")) or max_num_seqs


def set_prefix_cache(run: Run, path: PrefixPath) -> None:
    """Find blocks by hash, in buckets of less than one on average."""
    run.caching = 1
    run.num_buckets = 2 << run.kv_blocks.bit_length()
    run.blocks_per_hash = path.blocks_per_number
    run.max_path = int(path.num_blocks.max())


def set_targets(run: Run, targets: LateTargets) -> None:
    """What may end the run early."""
    run.watching = int(targets != LateTargets())
    run.queue_delay_limit_s = targets.queue_delay_s
    run.ttft_limit_s = targets.ttft_s
    run.e2e_limit_s = targets.e2e_s
    run.tbt_limit_s = targets.tbt_s
    run.max_late_queue_delay = targets.max_late_queue_delay
    run.max_late_ttft = targets.max_late_ttft
    run.max_late_e2e = targets.max_late_e2e
    run.max_late_gaps = targets.max_late_gaps
    run.forgetting = int(not targets.steps_kept)


def late_metric(run: Run) -> str | None:
    """The first metric of which more was late than may be."""
    late = {
        "queue_delay": (run.late_queue_delay, run.max_late_queue_delay),
        "ttft": (run.late_ttft, run.max_late_ttft),
        "e2e": (run.late_e2e, run.max_late_e2e),
        "tbt": (run.late_gaps, run.max_late_gaps),
    }
    return next((metric for metric, (count, most) in late.items() if count > most), None)
