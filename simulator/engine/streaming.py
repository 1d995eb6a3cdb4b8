"""Runs of many millions of requests in bounded memory: some requests at a time, steps as sums.

The engine stops before the first request that is not there. Those that are done become a row of a few
numbers, the steps are added up and forgotten, and the others are numbered anew, in front of the next ones.
Every time is the same as in one piece; the order of float sums over steps is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.compiled import compile_engine
from servecast.simulator.engine.dispatch import STICKY
from servecast.simulator.engine.engine import FULL, IDLE, PAUSED
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.pools import Pools, record_dtype, records
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.routing import Fleet, check_end
from servecast.simulator.engine.run_record import new_run, set_router
from servecast.simulator.engine.state import (
    INFINITY,
    NONE,
    CachedPrompt,
    Request,
    Segment,
    Simulation,
    Step,
    changed,
)
from servecast.simulator.engine.step_sums import StepSums
from servecast.simulator.traffic.workload import Workload

Ints = NDArray[np.int64]
CHUNK = 250_000
"""Requests at a time: their records and steps take about 100 MB."""

_TIMES = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
_ROW = np.dtype([(name, "f8") for name in _TIMES] + [("preemptions", "i4"), ("replica", "i4")])


Simulate = Callable[[Simulation], int]


class _Streamed:
    """All requests that fit a replica, by columns, what each goes by, and what simulates them."""

    def __init__(
        self, workload: Workload, fleet: Fleet, sums: StepSums, simulate: Simulate
    ) -> None:
        self.workload, self.fleet, self.sums, self.simulate = workload, fleet, sums, simulate
        self.key = parse_policy(fleet.policy).keys(workload)
        self.choices: Ints | None = None  # [2, requests]
        if fleet.replicas > 1:
            everybody = np.ones(len(workload), np.bool_)
            routing = parse_router(fleet.router)
            self.choices = routing.choices(workload, everybody, fleet.replicas)

    def run(self, chunk: int, rows: NDArray[Any]) -> None:
        """Fill in the requests' rows and the sums of the steps.

        Raises LivelockError.
        """
        count = len(self.workload)
        sim = self._nobody(min(chunk, count))
        numbers = np.empty(0, np.int64)  # of those that the simulation holds, in the workload
        code = IDLE
        for begin in range(0, count, chunk):
            end = min(begin + chunk, count)
            before: Any = sim.requests
            held: Any = np.concatenate((before, self._requests(begin, end)))
            numbers = np.concatenate((numbers, np.arange(begin, end)))
            sim = changed(sim, requests=held)
            sim.run[0].num_requests = len(held)
            sim.run[0].pause_s = self.workload.arrival_s[end] if end < count else INFINITY
            code = self.simulate(sim)
            while code == FULL:
                self.sums.add(sim)
                code = self.simulate(sim)
            self.sums.add(sim)
            if code not in (IDLE, PAUSED):
                break
            sim, numbers = _hand_over(sim, numbers, rows)
        check_end(code, sim, self.workload.name, count)

    def _nobody(self, chunk: int) -> Simulation:
        """The fleet before the first request, with logs for so many."""
        fleet = self.fleet
        run = new_run(fleet.limits, fleet.tables, self.workload, self.key)
        set_router(run, parse_router(fleet.router), fleet.limits.max_num_seqs)
        some, no_prompts = records(Request, chunk), records(CachedPrompt, 0)
        sim = Pools().simulation(run, some, no_prompts, fleet.tables, fleet.replicas)
        nobody: Any = some[:0].copy()
        return changed(sim, requests=nobody)

    def _requests(self, begin: int, end: int) -> NDArray[Any]:
        rows = records(Request, end - begin)
        rows["arrival_s"] = self.workload.arrival_s[begin:end]
        rows["prompt"] = rows["tokens"] = self.workload.prompt_tokens[begin:end]
        rows["remaining"] = self.workload.output_tokens[begin:end]
        rows["key"] = self.key[begin:end]
        if self.workload.client is not None:
            rows["client"] = self.workload.client[begin:end]
        if self.choices is not None:
            rows["replica"], rows["second_choice"] = self.choices[:, begin:end]
        return rows


def run_streamed(
    workload: Workload, fleet: Fleet, chunk: int = CHUNK, simulate: Simulate | None = None
) -> Records:
    """Simulate every request to its end, ``chunk`` at a time. The records have no steps, only their sums.

    ``simulate``: what `compile_engine` gave, where it is there already.

    Raises:
        UserError: what needs all requests at once: a prefix cache, sessions, queues that lose some, functions
            that pick, policies of other engines.
        LivelockError.
    """
    _check(workload, fleet)
    kv_tokens = workload.prompt_tokens + workload.output_tokens - 1
    fits = -(-kv_tokens // fleet.limits.block_tokens) <= fleet.limits.kv_blocks
    del kv_tokens
    rows = np.empty(int(fits.sum()), _ROW)
    sums = StepSums(fleet.replicas, fleet.tables.num_stages)
    served = workload
    if not fits.all() and fits.any():
        served = workload.take(np.flatnonzero(fits), workload.arrival_s[fits])
    if fits.any():
        _Streamed(served, fleet, sums, simulate or compile_engine()).run(chunk, rows)
    requests = rows
    if not fits.all():
        requests = np.zeros(len(workload), _ROW)
        for name in _TIMES:
            requests[name] = np.nan
        requests["arrival_s"] = workload.arrival_s
        requests[fits] = rows
    return Records(
        requests=requests,
        steps=np.empty(0, record_dtype(Step)),
        segments=np.empty(0, record_dtype(Segment)),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        rejected=~fits,
        replicas=fleet.replicas,
        stages=fleet.tables.num_stages,
        kv_blocks=fleet.limits.kv_blocks,
        prefix_hit_tokens=None,
        broken_metric=None,
        sums=sums,
    )


def _check(workload: Workload, fleet: Fleet) -> None:
    limits, policy = fleet.limits, parse_policy(fleet.policy)
    refused = {
        f"policy {fleet.policy!r}": not policy.is_compiled or bool(policy.decides),
        f"router {fleet.router!r}": parse_router(fleet.router).router.rule == STICKY,
        "prefix_caching": limits.caches_prefixes_of(workload.prefix is not None),
        "max_queue": limits.max_queue is not None,
        "queue_timeout_s": limits.queue_timeout_s is not None,
        **dict.fromkeys(fleet.modes.names, True),
    }
    for name, asked in refused.items():
        if asked:
            raise UserError(f"{workload.name}: {name} with a run in chunks: it needs all requests")


def _hand_over(sim: Simulation, numbers: Ints, rows: NDArray[Any]) -> tuple[Simulation, Ints]:
    """The simulation without those that are done, whose rows are filled in."""
    requests: Any = sim.requests
    stays = np.isnan(requests["finish_s"])
    for replica in sim.replicas:  # whose blocks the next batch cannot have yet
        i = int(replica.leaving)
        while i >= 0:
            stays[i] = True
            i = int(requests[i].link)
    done = requests[~stays]
    for name in _ROW.names or ():
        rows[name][numbers[~stays]] = done[name]
    _renumber(sim, stays)
    sim.run[0].num_routed = int(stays.sum())
    return changed(sim, requests=requests[stays]), numbers[stays]


def _renumber(sim: Simulation, stays: NDArray[np.bool_]) -> None:
    """Every number of a request, everywhere, as it will be; NONE for those that go."""
    new = np.full(len(stays) + 1, NONE, np.int32)  # the last is for NONE
    new[:-1][stays] = np.arange(stays.sum())
    run, count = sim.run[0], len(stays)
    pool: Any = sim.pool
    for r, replica in enumerate(sim.replicas):
        for begin, length in (
            (run.running_at + r * run.max_num_seqs, replica.num_running),
            (run.waiting_at + r * run.max_waiting, replica.num_waiting),
        ):
            pool[begin : begin + length] = new[pool[begin : begin + length]]
        for name in ("head", "next_arrival", "first", "last", "partial", "leaving"):
            setattr(replica, name, new[getattr(replica, name)])
    pool[run.calendar_at : run.held_at] = new[pool[run.calendar_at : run.held_at]]
    for lane in sim.lanes:
        lane.joined = new[lane.joined]
    requests: Any = sim.requests
    for name in ("link", "next_in_replica"):  # where nobody reads them, whatever was left there
        known = (requests[name] >= NONE) & (requests[name] < count)
        requests[name] = new[np.where(known, requests[name], NONE)]
