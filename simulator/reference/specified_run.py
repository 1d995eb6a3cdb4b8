"""A workload on a fleet whose modes only the specification knows: `reference.py`'s run, as records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.pools import record_dtype, records
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.state import Request, Segment, Step
from servecast.simulator.reference.blocks import ReferenceRequest
from servecast.simulator.reference.reference import ReferenceRun
from servecast.simulator.traffic.workload import Workload

if TYPE_CHECKING:
    from servecast.simulator.engine.routing import Fleet


def run_specified(
    workload: Workload,
    fleet: Fleet,
    clients: tuple[int, float] = (0, 0.0),
    loaded: NDArray[np.int64] | None = None,
) -> Records:
    """Every request, simulated to its end.

    Raises:
        UserError: modes that cannot be combined with the fleet.
        LivelockError: some request gets no token any more.
    """
    _check(fleet)
    _check_asked(workload, fleet, clients[0])
    run = ReferenceRun(workload, fleet, clients, loaded)
    return records_of(run, workload)


def _check(fleet: Fleet) -> None:
    policy = parse_policy(fleet.policy)
    if not policy.is_compiled:
        asked = ", ".join(fleet.modes.names) or f"clients of {fleet.replicas} replicas"
        raise UserError(
            f"policy {fleet.policy!r} with {asked}: "
            "these modes are for orders of service, in vLLM v1's batches"
        )
    speculation = fleet.modes.speculation
    if speculation and fleet.limits.async_scheduling and not speculation.is_of_one_length:
        raise UserError(
            "speculation with async_scheduling: a batch is formed before its drafts are there, "
            "so all must be of one length"
        )
    _check_ranks(fleet)
    _check_members(fleet)


def _check_ranks(fleet: Fleet) -> None:
    ranks, stages = fleet.modes.lock_step, fleet.tables.num_stages
    if ranks == 1:
        return
    if stages > 1:
        raise UserError(f"lock_step with {stages} pipeline stages: it needs one stage")
    if fleet.replicas % ranks:
        raise UserError(
            f"lock_step {ranks} with {fleet.replicas} ranks in all: it must divide them"
        )
    for name in ("scaling", "losses"):
        if getattr(fleet.modes, name):
            raise UserError(f"{name} with lock_step {ranks}: ranks come and go together")


def _check_members(fleet: Fleet) -> None:
    modes = fleet.modes
    if modes.scaling and modes.scaling.most != fleet.replicas:
        raise UserError(
            f"scaling to {modes.scaling.most} replicas with replicas {fleet.replicas}: "
            "the fleet must have the most that there can be"
        )
    for loss in modes.losses:
        if loss.replica >= fleet.replicas:
            last = fleet.replicas - 1
            there = f"they are 0 to {last}" if last else "there is replica 0 alone"
            raise UserError(f"replica {loss.replica} cannot be lost: {there}")


def _check_asked(workload: Workload, fleet: Fleet, concurrency: int) -> None:
    """What the workload must say, and who sends it."""
    modes = fleet.modes
    if modes.class_queues and workload.priority is None:
        raise UserError(f"{workload.name}: class_queues need a trace with each request's priority")
    if modes.turns and concurrency:
        raise UserError(f"turns with concurrency {concurrency}: sessions say who sends what when")
    if modes.turns and fleet.policy != "vllm_v1":
        raise UserError(
            f"turns with policy {fleet.policy!r}: its order needs every arrival beforehand"
        )
    if modes.ramp_s and not concurrency:
        raise UserError("ramp_s without concurrency: only closed-loop clients ramp up")


def records_of(run: ReferenceRun, workload: Workload) -> Records:
    """The run as what every metric reads; all of a replica's steps are in its first slot."""
    stages = run.fleet.tables.num_stages
    requests, segments = _request_rows(run, stages)
    kept = [r for r in run.replicas if r.blocks.caching]
    return Records(
        requests=requests,
        steps=_step_rows(run, stages),
        segments=segments,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        rejected=np.array([r is None or r.gone for r in run.requests]),
        replicas=len(run.replicas),
        stages=stages,
        kv_blocks=run.fleet.limits.kv_blocks,
        prefix_hit_tokens=_hits(run) if kept else None,
        broken_metric=None,
        lock_step=False,
        modes=run.report(),
    )


def _hits(run: ReferenceRun) -> NDArray[np.int64]:
    return np.array([r.hit if r else 0 for r in run.requests], np.int64)


def _step_rows(run: ReferenceRun, stages: int) -> NDArray[np.void]:
    names = record_dtype(Step).names
    assert names is not None
    rows = [
        tuple(s.replica * stages if name == "lane" else getattr(s, name) for name in names)
        for s in run.steps
    ]
    return np.array(rows, record_dtype(Step))


def _request_rows(run: ReferenceRun, stages: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Requests and segments: all runs of tokens but a request's last are segments. Of a request that was
    not served to its end no token is told."""
    rows = records(Request, len(run.requests))
    segments: list[tuple[int, ...]] = []
    for number, request in enumerate(run.requests):
        if request is None:
            continue
        row = rows[number]
        row["arrival_s"], row["scheduled_s"] = request.arrival_s, request.scheduled_s
        row["preemptions"], row["replica"] = request.preemptions, request.replica
        row["gone"] = request.why
        if request.gone or not request.token_s:
            continue
        row["first_token_s"], row["finish_s"] = request.first_token_s, request.token_s[-1]
        runs = _runs(request)
        segments += [(number, replica * stages, a, b, 0) for replica, a, b in runs[:-1]]
        replica, first, last = runs[-1]
        row["lane"], row["prompt"], row["base"], row["last"] = (
            replica * stages,
            first + 1,
            0,
            last,
        )
    return rows, np.array(segments, record_dtype(Segment))


def _runs(request: ReferenceRequest) -> list[list[int]]:
    """Replica, first and last of its consecutive steps that brought one token each; a step that brought
    several begins as many."""
    runs: list[list[int]] = []
    for replica, step in request.token_steps:
        if runs and runs[-1][0] == replica and runs[-1][2] == step - 1:
            runs[-1][2] = step
        else:
            runs.append([replica, step, step])
    return runs
