"""Runs the engine: a workload over the replicas of a fleet, with buffers that later runs use again.

Routing needs no event queue. Static rules assign everything beforehand; a rule that looks at the replicas
advances each to the arrival, then reads it. It sees what a real router would: a finish counts once the host
has processed the step's output, and requests assigned before at the same instant count already.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.compiled import compile_engine
from servecast.simulator.deployment import EngineLimits
from servecast.simulator.dispatch import simulate_all
from servecast.simulator.engine import FULL, IDLE, LIVELOCK
from servecast.simulator.policy import POLICIES, ranks
from servecast.simulator.pools import Pools, as_lists, as_records, records
from servecast.simulator.records import LateTargets, Records
from servecast.simulator.state import Request, Run, Segment, Simulation, Step
from servecast.simulator.workload import Workload

ROUTERS = {"round_robin": False, "least_outstanding": True}  # whether it reads the replicas' state

# Without a livelock, the batches between two tokens are at most a few prefills' chunks per stage.
_STALLED_PER_CHUNK = 100


class LivelockError(UserError):
    """Requests evict each other for ever and none gets a token."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal replicas behind a router."""

    tables: RuntimeTables
    limits: EngineLimits
    replicas: int = 1
    router: str = "round_robin"
    policy: str = "vllm_v1"

    def __post_init__(self) -> None:
        if self.router not in ROUTERS:
            raise UserError(f"router {self.router!r} is not one of {', '.join(ROUTERS)}")
        if self.policy not in POLICIES:
            raise UserError(f"policy {self.policy!r} is not one of {', '.join(POLICIES)}")
        if self.replicas < 1:
            raise UserError(f"replicas must be at least 1, got {self.replicas}")
        _check_limits(self.limits)
        _check_tables(self.tables, self.limits)


def _check_limits(limits: EngineLimits) -> None:
    for name in ("max_num_seqs", "max_batched_tokens", "kv_blocks", "block_tokens"):
        if getattr(limits, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(limits, name)}")
    if limits.block_tokens & (limits.block_tokens - 1):
        raise UserError(f"block_tokens must be a power of two, got {limits.block_tokens}")
    if limits.max_batched_tokens < limits.max_num_seqs:
        raise UserError(
            f"max_batched_tokens {limits.max_batched_tokens} is smaller than "
            f"max_num_seqs {limits.max_num_seqs}: not every sequence could decode"
        )
    if limits.kv_blocks * limits.block_tokens >= 2**31:
        raise UserError(f"kv_blocks {limits.kv_blocks} hold 2**31 tokens or more")


def _check_tables(tables: RuntimeTables, limits: EngineLimits) -> None:
    axes = {
        "token_s": (tables.token_s.shape[1], limits.max_batched_tokens + 1),
        "send_s": (tables.send_s.shape[1], tables.token_s.shape[1]),
        "sequence_s": (tables.sequence_s.shape[1], limits.max_num_seqs + 1),
        "decode_s": (tables.decode_s.shape[1], tables.sequence_s.shape[1]),
        "decode_s's cache axis": (tables.decode_s.shape[2], 2),
        "prefill_s's context axis": (tables.prefill_s.shape[1], 2),
        "prefill_s's chunk axis": (tables.prefill_s.shape[2], 2),
    }
    for name, (points, needed) in axes.items():
        if points < needed:
            raise ValueError(f"{name} has {points} points, the limits need {needed}")


class Engine:
    """Runs simulations one after another in the same buffers. Not for two threads at once.

    ``compiled=False`` runs the same source as plain Python, about 50 times slower: for debugging a policy.
    """

    def __init__(self, *, compiled: bool = True) -> None:
        self._run = compile_engine() if compiled else simulate_all
        self._compiled = compiled
        self._pools = Pools()

    def run(
        self,
        workload: Workload,
        fleet: Fleet,
        targets: LateTargets | None = None,
        *,
        concurrency: int | None = None,
    ) -> Records:
        """Simulate every request to its end, or until ``targets`` are missed.

        With a ``concurrency`` the arrivals of the workload do not count: so many clients send its
        requests in order, each the next one when its last is finished, all the first at 0.

        Raises LivelockError; UserError where the clients would have to choose between replicas.
        """
        if concurrency is not None and (concurrency < 1 or fleet.replicas > 1):
            raise UserError(
                f"concurrency {concurrency} with {fleet.replicas} replicas: "
                "closed-loop clients need 1 replica, and at least 1 of them"
            )
        limits = fleet.limits
        kv_tokens = workload.prompt_tokens + workload.output_tokens - 1  # the last is never cached
        fits = -(-kv_tokens // limits.block_tokens) <= limits.kv_blocks
        sim = self._prepare(workload, fleet, fits, targets or LateTargets(), concurrency or 0)
        code = self._run(sim)
        while code == FULL:
            sim = self._pools.with_longer_logs(sim)
            code = self._run(sim)
        unserved = code == IDLE and sum(int(r.num_finished) for r in sim.replicas) < fits.sum()
        if code == LIVELOCK or unserved:
            raise LivelockError(
                f"{workload.name}: requests evict each other without end, with {limits.kv_blocks} "
                f"KV blocks and max_batched_tokens {limits.max_batched_tokens}; "
                "reserve_prompt prevents it"
            )
        return _records(sim, workload, fleet, fits)

    def _prepare(
        self,
        workload: Workload,
        fleet: Fleet,
        fits: NDArray[np.bool_],
        targets: LateTargets,
        concurrency: int,
    ) -> Simulation:
        key = ranks(POLICIES[fleet.policy](workload)[fits])
        requests = self._pools.requests(workload, fits, key)
        run = Run(
            concurrency=concurrency,
            routed=int(ROUTERS[fleet.router] and concurrency == 0),
            **_limits(fleet, workload, key),
            **_targets(targets),
            **_table_axes(fleet.tables),
        )
        sim = self._pools.simulation(run, requests, fleet.tables, fleet.replicas)
        return sim if self._compiled else as_lists(sim)


def simulate(
    workload: Workload, fleet: Fleet, targets: LateTargets | None = None, *, compiled: bool = True
) -> Records:
    """One run in buffers of its own. For many runs keep an `Engine`.

    Raises LivelockError.
    """
    return Engine(compiled=compiled).run(workload, fleet, targets)


def _targets(targets: LateTargets) -> dict[str, Any]:
    return {
        "watching": int(targets != LateTargets()),
        "queue_delay_limit_s": targets.queue_delay_s,
        "ttft_limit_s": targets.ttft_s,
        "e2e_limit_s": targets.e2e_s,
        "tbt_limit_s": targets.tbt_s,
        "max_late_queue_delay": targets.max_late_queue_delay,
        "max_late_ttft": targets.max_late_ttft,
        "max_late_e2e": targets.max_late_e2e,
        "max_late_gaps": targets.max_late_gaps,
    }


def _limits(fleet: Fleet, workload: Workload, key: NDArray[np.int64]) -> dict[str, Any]:
    limits, stages = fleet.limits, fleet.tables.num_stages
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    chunks = -(-longest // limits.max_batched_tokens)
    ordered = bool(np.all(key[1:] > key[:-1]))
    return {
        **asdict(limits),
        "block_shift": limits.block_tokens.bit_length() - 1,
        "num_stages": stages,
        "days": 1 << int(workload.output_tokens.max()).bit_length(),
        # In key order only the preempted are in the heap.
        "max_waiting": limits.max_num_seqs if ordered else len(key),
        "max_stalled": _STALLED_PER_CHUNK * stages * (chunks + 1),
        "ordered": int(ordered),
        "num_requests": len(key),
    }


def _table_axes(tables: RuntimeTables) -> dict[str, Any]:
    return {
        "host_step_s": tables.host_step_s,
        "per_context_step": 1.0 / tables.context_step_tokens,
        "per_chunk_step": 1.0 / tables.chunk_step_tokens,
        "per_kv_step": 1.0 / tables.kv_step_tokens,
        "num_tokens": tables.token_s.shape[1],
        "num_sequences": tables.sequence_s.shape[1],
        "num_contexts": tables.prefill_s.shape[1],
        "num_chunks": tables.prefill_s.shape[2],
        "num_kv": tables.decode_s.shape[2],
    }


def _records(sim: Simulation, workload: Workload, fleet: Fleet, fits: NDArray[np.bool_]) -> Records:
    run = sim.run[0]
    requests = as_records(Request, sim.requests)
    segments = as_records(Segment, sim.segments)[: run.num_segments]
    if not fits.all():
        served, requests = requests, records(Request, len(workload))
        requests["arrival_s"] = workload.arrival_s
        requests[fits] = served
        segments["request"] = np.flatnonzero(fits)[segments["request"]]
    return Records(
        requests=requests,
        steps=as_records(Step, sim.steps)[: run.num_steps],
        segments=segments,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        rejected=~fits,
        replicas=fleet.replicas,
        stages=fleet.tables.num_stages,
        kv_blocks=fleet.limits.kv_blocks,
        broken_metric=_broken_metric(run),
    )


def _broken_metric(run: Run) -> str | None:
    """The first metric of which more was late than may be."""
    late = {
        "queue_delay": (run.late_queue_delay, run.max_late_queue_delay),
        "ttft": (run.late_ttft, run.max_late_ttft),
        "e2e": (run.late_e2e, run.max_late_e2e),
        "tbt": (run.late_gaps, run.max_late_gaps),
    }
    return next((metric for metric, (count, most) in late.items() if count > most), None)
