"""Replicas simulated request by request, for schedulers written as plain Python classes.

For policies whose order is more than a key (`schedulers.py`) and step times that are more than tables. A
batch costs what its requests do: thousands of requests per second. `engine.py` is for the rest.

At one instant everything happens before batches are formed. A batch is delivered to a stage, runs there
when the stage is free and those before it are through, and is over when the host has processed its tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from servecast.simulator.engine.scheduling import Batch, Job, LivelockError, Scheduler, Timer

MAX_STALLED = 100_000
"""Batches of a replica without a token; the longest prefill there is takes far fewer."""


class ObjectReplica:
    """A scheduler with its pipeline: batches queue for each stage and do not overtake."""

    def __init__(self, number: int, scheduler: Scheduler, num_stages: int) -> None:
        self.number, self.scheduler = number, scheduler
        self.queues: list[deque[Batch]] = [deque() for _ in range(num_stages)]
        self.busy = [False] * num_stages
        self.in_flight = 0
        self.done = 0  # batches
        self.stalled = 0  # of them, since one that brought a token
        self.outstanding: dict[Job, None] = {}
        self.finished: list[Job] = []  # since the router last heard of them

    def add(self, job: Job) -> None:
        job.replica = self.number
        rejected = len(self.scheduler.rejected)
        self.scheduler.add(job)
        if len(self.scheduler.rejected) == rejected:
            self.outstanding[job] = None

    def end(self, batch: Batch) -> None:
        """The host has processed the batch."""
        self.in_flight -= 1
        self.stalled += 1
        for job, tokens in batch.jobs:
            job.progress(tokens, batch.end_s, self.done)
            if job.prefilled:
                self.stalled = 0
            if job.finished:
                del self.outstanding[job]
                self.finished.append(job)
        self.done += 1
        self.scheduler.end_batch([job for job, _ in batch.jobs])

    def start(self, now_s: float, timer: Timer) -> list[tuple[Batch, int]]:
        """Send each idle stage the batch that waits for it; those batches and their stages."""
        started: list[tuple[Batch, int]] = []
        for stage, queue in enumerate(self.queues):
            if queue and not self.busy[stage] and queue[0].ready_s <= now_s:
                batch = queue.popleft()
                self.busy[stage] = True
                batch.start_s.append(now_s)
                overhead_s = 0.0 if stage else batch.overhead_s
                batch.time_s.append(timer.stage_s(batch, stage) + overhead_s)
                started.append((batch, stage))
        return started

    def form(self, now_s: float) -> list[Batch]:
        """Batches until as many are in flight as there are stages or nothing can be scheduled."""
        formed: list[Batch] = []
        while self.in_flight < len(self.queues):
            jobs = self.scheduler.next_batch()
            if not jobs:
                break
            for job, _ in jobs:
                if job.scheduled_s != job.scheduled_s:  # NaN: never was
                    job.scheduled_s = now_s
            before = tuple([(job.processed, job.prefilled) for job, _ in jobs])  # faster so
            overhead_s, free = self.scheduler.overhead_s, self.scheduler.free
            formed.append(Batch(self.number, tuple(jobs), now_s, before, overhead_s, free))
            self.queues[0].append(formed[-1])
            self.in_flight += 1
        return formed


class JobRouter(Protocol):
    """Sends jobs, which are their places in the order of arrival, to replicas."""

    def route(self, place: int, arrival_s: float) -> list[tuple[int, int]]:
        """One has arrived: the jobs that go to a replica now, and to which."""
        ...

    def finished(self, place: int, now_s: float) -> None: ...

    def bind(self) -> list[tuple[int, int]]:
        """After those that finish in one instant: who goes where now."""
        ...


class InTurn:
    """Round robin."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def route(self, place: int, arrival_s: float) -> list[tuple[int, int]]:
        return [(place, place % self.replicas)]

    def finished(self, place: int, now_s: float) -> None:
        pass

    def bind(self) -> list[tuple[int, int]]:
        return []


class ObjectRun:
    """The events of replicas: (time, ticket, what happens then). ``batches`` are in the order of forming."""

    def __init__(
        self, jobs: Sequence[Job], schedulers: Sequence[Scheduler], timer: Timer, stages: int
    ) -> None:
        self.jobs, self.timer, self.stages = jobs, timer, stages
        self.replicas = [ObjectReplica(n, each, stages) for n, each in enumerate(schedulers)]
        self.batches: list[Batch] = []
        self._places = {job: place for place, job in enumerate(jobs)}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = count()
        self._woken: dict[ObjectReplica, None] = {}
        self._sent, self._client_s = 0, 0.0

    def simulate(self, router: JobRouter, clients: int = 0, client_s: float = 0.0) -> None:
        """Every job, in arrival order, to its end; with closed-loop clients each the next one ``client_s``
        after its last is finished, all the first at 0.

        Raises:
            LivelockError: none of those that are left gets a token any more.
        """
        arrived, self._client_s = 0, client_s
        self._sent = min(clients, len(self.jobs)) if clients else len(self.jobs)
        for job in self.jobs[: self._sent] if clients else ():
            job.arrived_s = 0.0
        while self._events or arrived < self._sent:
            next_s = self.jobs[arrived].arrived_s if arrived < self._sent else math.inf
            now_s = min(next_s, self._events[0][0]) if self._events else next_s
            while self._events and self._events[0][0] == now_s:
                heappop(self._events)[2]()
            self._report(router, now_s)
            self._send(router.bind())
            while arrived < self._sent and self.jobs[arrived].arrived_s <= now_s:
                self._send(router.route(arrived, self.jobs[arrived].arrived_s))
                arrived += 1
            for replica in self._woken:
                self._launch(replica, now_s)
            self._woken.clear()
        self._check()

    def _report(self, router: JobRouter, now_s: float) -> None:
        for replica in self._woken:
            for job in replica.finished:
                router.finished(self._places[job], now_s)
                if self._sent < len(self.jobs):  # a client has been waiting for it
                    self.jobs[self._sent].arrived_s = job.finished_s + self._client_s
                    self._sent += 1
            replica.finished.clear()

    def _send(self, sent: Sequence[tuple[int, int]]) -> None:
        for place, number in sent:
            self.replicas[number].add(self.jobs[place])
            self._woken[self.replicas[number]] = None

    def _launch(self, replica: ObjectReplica, now_s: float) -> None:
        self.batches += replica.form(now_s)
        for batch, stage in replica.start(now_s, self.timer):
            self._at(now_s + batch.time_s[stage], partial(self._leave, batch, stage))
        if replica.stalled > MAX_STALLED:
            raise LivelockError(f"replica {replica.number}: no token in {MAX_STALLED} batches")

    def _check(self) -> None:
        for replica in self.replicas:
            if replica.outstanding:
                job = next(iter(replica.outstanding))
                raise LivelockError(
                    f"request {job.number} waits for ever: the policy schedules nothing more on "
                    f"replica {replica.number}, which has {replica.scheduler.free} free KV blocks"
                )

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heappush(self._events, (time_s, next(self._ticket), event))

    def _wake(self, replica: ObjectReplica) -> None:
        self._woken[replica] = None

    def _leave(self, batch: Batch, stage: int) -> None:
        """The stage is done with the batch."""
        replica = self.replicas[batch.replica]
        replica.busy[stage] = False
        self._wake(replica)
        end_s = batch.start_s[stage] + batch.time_s[stage]
        if stage + 1 < self.stages:
            batch.ready_s = end_s + self.timer.send_s(batch, stage)
            replica.queues[stage + 1].append(batch)
            self._at(batch.ready_s, partial(self._wake, replica))
            return
        batch.end_s = end_s
        if self.timer.host_step_s > 0.0:
            self._at(end_s + self.timer.host_step_s, partial(self._end, batch))
        else:
            replica.end(batch)

    def _end(self, batch: Batch) -> None:
        replica = self.replicas[batch.replica]
        replica.end(batch)
        self._wake(replica)


def run_jobs(
    jobs: Sequence[Job], schedulers: Sequence[Scheduler], timer: Timer, num_stages: int
) -> list[Batch]:
    """Every batch, in the order of forming, of jobs (in arrival order) dealt out round robin."""
    run = ObjectRun(jobs, schedulers, timer, num_stages)
    run.simulate(InTurn(len(schedulers)))
    return run.batches
