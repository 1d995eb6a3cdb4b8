"""Runs the engine: a workload over the replicas of a fleet, with buffers that later runs use again.

Routing (`routers.py`) needs no event queue. Static rules assign everything beforehand; one that looks at the
replicas advances each to the arrival, then reads it. It sees what a real router would: a finish counts once
the host has processed the step's output, and requests assigned before at the same instant count already.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.batch_rules import Rules, rules_of, set_rules
from servecast.simulator.engine.compiled import compile_engine
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.dispatch import DEFERRED, STATIC, simulate_all
from servecast.simulator.engine.engine import FULL, IDLE, STUCK
from servecast.simulator.engine.hooks import attach
from servecast.simulator.engine.modes import NO_MODES, Modes
from servecast.simulator.engine.policy import Policy, parse_policy
from servecast.simulator.engine.pools import (
    Array,
    Pools,
    as_lists,
    as_records,
    collector_paused,
    outcome_of,
    records,
)
from servecast.simulator.engine.records import LateTargets, Most, Records
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.run_record import (
    late_metric,
    new_run,
    set_prefix_cache,
    set_router,
    set_targets,
)
from servecast.simulator.engine.scheduling import LivelockError
from servecast.simulator.engine.state import (
    CachedPrompt,
    Replica,
    Request,
    Run,
    Segment,
    Simulation,
    Step,
)
from servecast.simulator.engine.unfold import unfold
from servecast.simulator.reference.object_run import (
    ObjectFleet,
    broken_metric,
    run_objects,
    servable,
)
from servecast.simulator.reference.specified_run import run_specified
from servecast.simulator.traffic.workload import Workload


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal replicas behind a router."""

    tables: RuntimeTables
    limits: EngineLimits
    replicas: int = 1
    router: str = "round_robin"
    policy: str = "vllm_v1"
    modes: Modes = NO_MODES

    def __post_init__(self) -> None:
        parse_router(self.router).check(self.limits.async_scheduling, self.modes.lock_step)
        parse_policy(self.policy)
        if self.replicas < 1:
            raise UserError(f"replicas must be at least 1, got {self.replicas}")
        _check_limits(self.limits, self.tables.num_stages)
        _check_tables(self.tables, self.limits)


def _check_limits(limits: EngineLimits, stages: int) -> None:
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
    if limits.max_queue is not None and limits.max_queue < 1:
        raise UserError(f"max_queue must be at least 1, got {limits.max_queue}")
    if limits.queue_timeout_s is not None and not limits.queue_timeout_s >= 0:
        raise UserError(f"queue_timeout_s must be 0 or more, got {limits.queue_timeout_s:g}")
    if limits.kv_blocks * limits.block_tokens >= 2**31:
        raise UserError(f"kv_blocks {limits.kv_blocks} hold 2**31 tokens or more")
    if limits.async_scheduling and stages > 1:
        raise UserError(f"async_scheduling with {stages} pipeline stages: it needs one stage")


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
        client_s: float = 0.0,
        loaded_tokens: NDArray[np.int64] | None = None,
    ) -> Records:
        """Simulate every request to its end, or until ``targets`` are missed.

        With a ``concurrency`` the arrivals of the workload do not count: so many clients send its
        requests in order, each the next one ``client_s`` after its last is finished, all the first at 0.
        ``loaded_tokens`` [requests] of a prompt, fewer than it has, need no prefill: KV that another
        replica sends. They take blocks of their own, and no prefix cache helps then.

        Raises LivelockError; UserError where the clients would have to choose between replicas.
        """
        _check_asked(workload, fleet, concurrency, loaded_tokens)
        limits = fleet.limits
        kv_tokens = workload.prompt_tokens + workload.output_tokens - 1  # the last is never cached
        fits = -(-kv_tokens // limits.block_tokens) <= limits.kv_blocks
        policy = parse_policy(fleet.policy)
        clients = (concurrency or 0, client_s)
        if fleet.modes.names or (concurrency and fleet.replicas > 1):
            records = run_specified(workload, fleet, clients, loaded_tokens)
            return replace(records, broken_metric=broken_metric(records, targets or LateTargets()))
        rules: Rules | None = {}
        if not policy.is_compiled:
            objects = ObjectFleet(policy, fleet.tables, limits, fleet.replicas, *clients)
            fits, scheduler = servable(workload, objects, fits)
            rules = rules_of(scheduler, fleet.tables.num_stages, workload.prefix is not None)
        if rules is None:
            records = run_objects(workload, objects, fits, parse_router(fleet.router))
            return replace(records, broken_metric=broken_metric(records, targets or LateTargets()))
        key = policy.keys(workload)[fits]
        run = new_run(limits, fleet.tables, workload, key, policy.decides)
        set_rules(run, rules)
        pausing = run.prompts_first > 0  # what is late is told when all is known
        set_targets(run, LateTargets() if pausing or targets is None else targets)
        run.concurrency, run.client_s = concurrency or 0, client_s
        requests = self._pools.requests(workload, fits, key, loaded_tokens)
        path = None
        caching = limits.caches_prefixes_of(workload.prefix is not None) and not rules
        if caching and loaded_tokens is None:
            path = self._pools.path(workload, limits.block_tokens)
            set_prefix_cache(run, path)
        prompts = self._pools.prompts(path, fits)
        _set_routes(run, requests, workload, fleet, fits)
        sim = self._pools.simulation(run, requests, prompts, fleet.tables, fleet.replicas)
        with nullcontext() if self._compiled else collector_paused():
            sim = sim if self._compiled else as_lists(sim)
            sim = self._run_to_end(sim, policy, workload.name)
            served = _records(sim, workload, fleet, (fits, requests))
            del sim  # before the collector looks through it
        if pausing:
            served = unfold(served, limits.kv_blocks, limits.block_tokens)
            return replace(served, broken_metric=broken_metric(served, targets or LateTargets()))
        return served

    def _run_to_end(self, sim: Simulation, policy: Policy, name: str) -> Simulation:
        """The state at the end, in logs that are as long as it needs.

        Raises LivelockError, and what the policy's function raised.
        """
        hooks = policy.hooks(compiled=self._compiled)
        sim = attach(hooks, sim)
        code = self._run(sim)
        while code == FULL:
            sim = self._pools.with_longer_logs(sim)
            code = self._run(sim)
        if sim.run[0].hook_failed:
            message = f"policy {str(policy)!r}: picked a place that nobody waits or runs at"
            raise next((h.error for h in hooks.values() if h.error), UserError(message))
        check_end(code, sim, name, len(sim.requests))
        return sim


def _set_routes(
    run: Run,
    requests: Array,
    workload: Workload,
    fleet: Fleet,
    fits: NDArray[np.bool_],
) -> None:
    """The router's rule, and what it has chosen for each request before anything runs."""
    routing = parse_router(fleet.router)
    set_router(run, routing, fleet.limits.max_num_seqs)
    if fleet.replicas > 1:
        choices = routing.choices(workload, fits, fleet.replicas)
        requests["replica"], requests["second_choice"] = choices


def _check_asked(
    workload: Workload,
    fleet: Fleet,
    concurrency: int | None,
    loaded_tokens: NDArray[np.int64] | None,
) -> None:
    if loaded_tokens is not None and np.any(loaded_tokens >= workload.prompt_tokens):
        raise ValueError("loaded_tokens must leave one token of each prompt to compute")
    if loaded_tokens is not None and not parse_policy(fleet.policy).is_compiled:
        raise UserError(f"policy {fleet.policy!r} with loaded_tokens: it keeps no prefixes")
    if concurrency is not None and concurrency < 1:
        raise UserError(f"concurrency must be at least 1, got {concurrency}")
    _check_waiting(fleet, concurrency)


def _check_waiting(fleet: Fleet, concurrency: int | None) -> None:
    """Whoever counts a replica's requests does not count those that leave its queue."""
    limits, routing = fleet.limits, parse_router(fleet.router)
    if fleet.modes.names:
        return  # the specification tells routers and clients
    for name in ("max_queue", "queue_timeout_s"):
        if getattr(limits, name) is None:
            continue
        if concurrency is not None:
            raise UserError(
                f"{name} with concurrency {concurrency}: its clients wait for an answer"
            )
        rule = routing.router.rule
        if rule == DEFERRED or (fleet.replicas > 1 and rule != STATIC):
            raise UserError(f"{name} with router {fleet.router!r}: it counts a replica's requests")
        if not parse_policy(fleet.policy).is_compiled:
            raise UserError(f"{name} with policy {fleet.policy!r}: it is for orders of service")


def check_end(code: int, sim: Simulation, name: str, num_requests: int) -> None:
    """Every one of so many requests is served, unless targets ended the run, and every block is free."""
    limits = sim.run[0]
    replicas = as_records(Replica, sim.replicas)
    served = int(replicas["num_finished"].sum())
    if code == STUCK or (code == IDLE and served < num_requests):
        raise LivelockError(
            f"{name}: requests evict each other without end, with {limits.kv_blocks} KV blocks and "
            f"max_batched_tokens {limits.max_batched_tokens}; reserve_prompt prevents it"
        )
    if code == IDLE and (replicas["free"] != limits.kv_blocks).any():
        raise AssertionError(f"{name}: KV blocks were lost: none is in use, and not all are free")


def simulate(
    workload: Workload, fleet: Fleet, targets: LateTargets | None = None, *, compiled: bool = True
) -> Records:
    """One run in buffers of its own. For many runs keep an `Engine`.

    Raises LivelockError.
    """
    return Engine(compiled=compiled).run(workload, fleet, targets)


def _records(
    sim: Simulation,
    workload: Workload,
    fleet: Fleet,
    began: tuple[NDArray[np.bool_], NDArray[np.void]],
) -> Records:
    """``began``: which requests fit, and those as they were before the run."""
    run, (fits, requests) = sim.run[0], began
    requests = outcome_of(sim.requests, requests)
    segments = as_records(Segment, sim.segments[: 0 if run.forgetting else run.num_segments])
    if not fits.all():
        served, requests = requests, records(Request, len(workload))
        requests["arrival_s"] = workload.arrival_s
        requests[fits] = served
        segments["request"] = np.flatnonzero(fits)[segments["request"]]
    return Records(
        requests=requests,
        steps=as_records(Step, sim.steps[: 0 if run.forgetting else run.num_steps]),
        segments=segments,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        rejected=~fits | (requests["gone"] > 0),
        replicas=fleet.replicas,
        stages=fleet.tables.num_stages,
        kv_blocks=int(run.kv_blocks),
        prefix_hit_tokens=_prefix_hits(sim, fits) if run.caching else None,
        broken_metric=late_metric(run),
        most=Most(int(run.most_tokens), int(run.most_sequences), int(run.most_blocks)),
    )


def _prefix_hits(sim: Simulation, fits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Tokens of each prompt that the prefix cache had when the request was first admitted."""
    cached = np.zeros(len(fits), np.int64)
    cached[fits] = as_records(CachedPrompt, sim.prompts)["hit"]
    return cached
