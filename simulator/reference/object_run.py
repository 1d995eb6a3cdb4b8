"""A workload on a fleet whose policy is a plain class: `object_engine.py` with runtime tables, as records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.policy import Policy
from servecast.simulator.engine.pools import record_dtype, records
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routers import Routing
from servecast.simulator.engine.scheduling import Job, Scheduler
from servecast.simulator.engine.state import Request, Segment, Step
from servecast.simulator.engine.table_timer import TableTimer
from servecast.simulator.metrics.metrics import samples
from servecast.simulator.reference.block_scheduler import SchedulerLimits
from servecast.simulator.reference.object_engine import ObjectRun
from servecast.simulator.reference.object_routing import ObjectRouter
from servecast.simulator.reference.schedulers import SCHEDULERS
from servecast.simulator.reference.vllm_v1_scheduler import VllmV1
from servecast.simulator.traffic.workload import Workload

PIPELINED = ("static", "vllm_v0", "sarathi", "orca")
"""Their batches may share the pipeline's stages, as Vidur's do."""
CACHING = ("sglang",)
"""They keep prefixes, and in a way of their own."""


@dataclass(frozen=True, slots=True)
class ObjectFleet:
    """Equal replicas under one policy."""

    policy: Policy
    tables: RuntimeTables
    limits: EngineLimits
    replicas: int
    clients: int = 0  # closed-loop; 0: requests arrive by themselves
    client_s: float = 0.0


def make_scheduler(fleet: ObjectFleet, workload: Workload) -> Callable[[], Scheduler]:
    """What makes one replica's scheduler."""
    policy, limits = fleet.policy, fleet.limits
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    prefix = workload.prefix
    asked = SchedulerLimits(
        max_num_seqs=limits.max_num_seqs,
        max_batched_tokens=limits.max_batched_tokens,
        kv_blocks=limits.kv_blocks,
        max_tokens=-(-longest // limits.block_tokens) * limits.block_tokens,
        block_tokens=limits.block_tokens,
        watermark_blocks=limits.watermark_blocks,
        num_stages=fleet.tables.num_stages,
        reserve_prompt=limits.reserve_prompt,
        declared_output_tokens=int(workload.output_tokens.max()),
        prefix_block_tokens=prefix.block_tokens if prefix else 1,
    )
    if policy.is_order:
        return partial(VllmV1, asked, **policy.batching)  # type: ignore[arg-type]  # checked when parsed
    return partial(SCHEDULERS[policy.name], asked, **policy.parameters)


def jobs_of(workload: Workload, fits: NDArray[np.bool_], keys: NDArray[np.int64]) -> list[Job]:
    """Those that fit; the others keep their numbers."""
    clients = workload.client if workload.client is not None else np.zeros(len(workload), np.int64)
    columns = (workload.prompt_tokens, workload.output_tokens, keys, clients)
    rows = np.column_stack(columns).tolist()
    prefix = workload.prefix
    return [
        Job(
            number=i,
            arrived_s=arrival_s,
            prefill_tokens=rows[i][0],
            decode_tokens=rows[i][1],
            key=rows[i][2],
            client=rows[i][3],
            prefix=tuple(prefix.ids[prefix.offsets[i] : prefix.offsets[i + 1]].tolist())
            if prefix
            else (),
        )
        for i, arrival_s in enumerate(workload.arrival_s.tolist())
        if fits[i]
    ]


def run_objects(
    workload: Workload, fleet: ObjectFleet, fits: NDArray[np.bool_], routing: Routing
) -> Records:
    """The `servable` requests, simulated to their end."""
    make = make_scheduler(fleet, workload)
    timer, stages = TableTimer(fleet.tables), fleet.tables.num_stages
    rejected = ~fits
    jobs = jobs_of(workload, ~rejected, fleet.policy.keys(workload))
    choices = routing.choices(workload, ~rejected, fleet.replicas)
    tokens = [job.prefill_tokens for job in jobs]
    router = ObjectRouter(routing, choices, tokens, fleet.replicas, fleet.limits.max_num_seqs)
    run = ObjectRun(jobs, [make() for _ in range(fleet.replicas)], timer, stages)
    run.simulate(router, fleet.clients, fleet.client_s)
    for replica in run.replicas:
        rejected[[job.number for job in replica.scheduler.rejected]] = True
    requests, segments = _request_rows(workload, jobs, stages)
    return Records(
        requests=requests,
        steps=_step_rows(run, fleet, timer),
        segments=segments,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        rejected=rejected,
        replicas=fleet.replicas,
        stages=stages,
        kv_blocks=fleet.limits.kv_blocks,
        prefix_hit_tokens=None,
        broken_metric=None,
        lock_step=False,
    )


def servable(
    workload: Workload, fleet: ObjectFleet, fits: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Scheduler]:
    """Which requests that fit a replica can serve, and the scheduler that says so.

    Raises:
        UserError: what the policy cannot do with this fleet.
    """
    reason = refusal(fleet.policy, fleet.limits, fleet.tables.num_stages, workload)
    if reason:
        raise UserError(reason)
    scheduler = make_scheduler(fleet, workload)()
    lengths = workload.prompt_tokens.tolist(), workload.output_tokens.tolist()
    can = np.fromiter(map(scheduler.can_serve, *lengths), np.bool_, len(fits))
    return fits & can, scheduler


def refusal(policy: Policy, limits: EngineLimits, stages: int, workload: Workload) -> str | None:
    """Why a policy that is a class cannot serve these requests so; None: it can."""
    asked = f"policy {str(policy)!r}"
    if stages > 1 and policy.name not in PIPELINED:
        return (
            f"{asked} with {stages} pipeline stages: it needs one stage; "
            f"several are for {', '.join(PIPELINED)} and orders of service"
        )
    if limits.max_num_seqs < stages:
        return (
            f"max_num_seqs {limits.max_num_seqs} with {stages} pipeline stages: {asked} "
            "needs one sequence for each stage's batch"
        )
    if limits.async_scheduling:
        return f"{asked} with async_scheduling: it forms none ahead"
    if policy.name in CACHING:
        return None
    if limits.prefix_caching:
        return f"{asked} with prefix_caching: it keeps no prefixes"
    if limits.prefix_caching is None and workload.prefix is not None:
        return (
            f"{workload.name}: {asked} keeps no prefixes, and the prompts share some: "
            "say prefix_caching=False (--no-prefix-caching)"
        )
    return None


def _step_rows(run: ObjectRun, fleet: ObjectFleet, timer: TableTimer) -> NDArray[np.void]:
    """In the order of forming; all of a replica's are in its first slot."""
    rows = []
    for batch in run.batches:
        cached = [processed - 1 for processed, prefilled in batch.before if prefilled]
        rows.append(
            (
                batch.start_s[0],
                batch.end_s,
                sum(timer.chunks_s(batch, stage) for stage in range(run.stages)),
                sum(tokens for _, tokens in batch.jobs),
                len(batch.jobs),
                len(cached),
                sum(cached),
                fleet.limits.kv_blocks - batch.free_blocks,
                batch.replica * run.stages,
            )
        )
    return np.array(rows, record_dtype(Step))


def _request_rows(
    workload: Workload, jobs: Sequence[Job], stages: int
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Requests and segments: all runs of tokens but a request's last are segments."""
    requests = records(Request, len(workload))
    requests["arrival_s"] = workload.arrival_s
    segments: list[tuple[int, ...]] = []
    for job in jobs:
        row, lane = requests[job.number], job.replica * stages
        row["arrival_s"] = job.arrived_s
        row["scheduled_s"], row["first_token_s"] = job.scheduled_s, job.first_token_s
        row["finish_s"], row["preemptions"] = job.finished_s, job.preemptions
        row["replica"], row["lane"] = job.replica, lane
        earlier = job.runs[:-1] if job.finished else job.runs
        segments += [(job.number, lane, first, last, 0) for first, last in earlier]
        if job.finished:
            row["prompt"], row["base"], row["last"] = job.runs[-1][0] + 1, 0, job.runs[-1][1]
    return requests, np.array(segments, record_dtype(Segment))


def broken_metric(records: Records, targets: LateTargets) -> str | None:
    """The first target that more missed than may, as `lateness.py` would have found."""
    most = {
        "queue_delay": (targets.queue_delay_s, targets.max_late_queue_delay),
        "ttft": (targets.ttft_s, targets.max_late_ttft),
        "e2e": (targets.e2e_s, targets.max_late_e2e),
        "tbt": (targets.tbt_s, targets.max_late_gaps),
    }
    for metric, (limit_s, allowed) in most.items():
        if limit_s < math.inf and samples(records, metric).above(limit_s) > allowed:
            return metric
    return None
