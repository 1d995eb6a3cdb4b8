"""Replicas simulated request by request, for schedulers written as plain Python classes.

For policies whose order is more than a key (`schedulers.py`) and step times that are more than tables. A
batch costs what its requests do: thousands of requests per second. `engine.py` is for the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Protocol


@dataclass(slots=True, eq=False)
class Job:
    """One request as a scheduler sees it. ``processed`` tokens have their KV cached or came out last."""

    number: int
    arrived_s: float
    prefill_tokens: int
    decode_tokens: int
    processed: int = 0
    prefilled: bool = False
    restarts: int = 0
    replica: int = 0
    scheduled_s: float = float("nan")
    first_token_s: float = float("nan")
    finished_s: float = float("nan")

    @property
    def finished(self) -> bool:
        return self.processed == self.prefill_tokens + self.decode_tokens

    def progress(self, tokens: int, now_s: float) -> None:
        """A batch with so many tokens of it is over; the end of a prefill brings a token more."""
        self.processed += tokens
        if not self.prefilled and self.processed == self.prefill_tokens:
            self.prefilled = True
            self.processed += 1
            if self.first_token_s != self.first_token_s:  # NaN: the first of them
                self.first_token_s = now_s
        if self.finished:
            self.finished_s = now_s

    def restart(self) -> None:
        """Its KV is lost: what was processed is to be prefilled again."""
        total = self.prefill_tokens + self.decode_tokens
        self.prefill_tokens = self.processed
        self.decode_tokens = total - self.processed
        self.processed = 0
        self.prefilled = False
        self.restarts += 1


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs and the tokens that each has in this batch; what it saw of them when it was formed."""

    replica: int
    jobs: tuple[tuple[Job, int], ...]
    formed_s: float
    before: tuple[tuple[int, bool], ...] = ()  # processed, prefilled
    start_s: list[float] = field(default_factory=list)  # by stage
    time_s: list[float] = field(default_factory=list)


class Scheduler(Protocol):
    """One replica's policy. It never looks at ``decode_tokens``: real schedulers cannot."""

    rejected: list[Job]

    def add(self, job: Job) -> None: ...

    def next_batch(self) -> list[tuple[Job, int]]:
        """Jobs and tokens for a batch now; empty if there is none."""
        ...

    def end_batch(self, jobs: Sequence[Job]) -> None:
        """The batch of these is over; those that finished give everything back."""
        ...


class Timer(Protocol):
    """Seconds that a batch occupies a pipeline stage."""

    def stage_s(self, batch: Batch, stage: int) -> float: ...


class _Replica:
    """A scheduler with its pipeline: batches queue for each stage and do not overtake."""

    def __init__(self, number: int, scheduler: Scheduler, num_stages: int) -> None:
        self.number, self.scheduler = number, scheduler
        self.queues: list[deque[Batch]] = [deque() for _ in range(num_stages)]
        self.busy = [False] * num_stages
        self.in_flight = 0

    def handle(self, event: Job | tuple[Batch, int], now_s: float) -> None:
        """An arrival, or the end of a batch in a stage."""
        if isinstance(event, Job):
            event.replica = self.number
            self.scheduler.add(event)
            return
        batch, stage = event
        self.busy[stage] = False
        if stage + 1 < len(self.queues):
            self.queues[stage + 1].append(batch)
            return
        self.in_flight -= 1
        for job, tokens in batch.jobs:
            job.progress(tokens, now_s)
        self.scheduler.end_batch([job for job, _ in batch.jobs])

    def start(self, now_s: float, timer: Timer) -> list[tuple[Batch, int]]:
        """Send each idle stage the batch that waits for it; those batches and their stages."""
        started: list[tuple[Batch, int]] = []
        for stage, queue in enumerate(self.queues):
            if queue and not self.busy[stage]:
                batch = queue.popleft()
                self.busy[stage] = True
                batch.start_s.append(now_s)
                batch.time_s.append(timer.stage_s(batch, stage))
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
            before = tuple((job.processed, job.prefilled) for job, _ in jobs)
            formed.append(Batch(self.number, tuple(jobs), now_s, before))
            self.queues[0].append(formed[-1])
            self.in_flight += 1
        return formed


def run_jobs(
    jobs: Sequence[Job], schedulers: Sequence[Scheduler], timer: Timer, num_stages: int
) -> list[Batch]:
    """Every batch, in the order of forming, of jobs (in arrival order) dealt out round robin.

    Of one instant everything happens before batches are formed.
    """
    replicas = [_Replica(n, scheduler, num_stages) for n, scheduler in enumerate(schedulers)]
    batches: list[Batch] = []
    ticket = count()
    events: list[tuple[float, int, Job | tuple[Batch, int]]] = []
    for job in jobs:
        heappush(events, (job.arrived_s, next(ticket), job))
    while events:
        now_s = events[0][0]
        woken: dict[_Replica, None] = {}
        while events and events[0][0] == now_s:
            event = heappop(events)[2]
            number = event.number % len(replicas) if isinstance(event, Job) else event[0].replica
            woken[replicas[number]] = None
            replicas[number].handle(event, now_s)
        for replica in woken:
            batches += replica.form(now_s)
            for started, stage in replica.start(now_s, timer):
                end_s = now_s + started.time_s[stage]
                heappush(events, (end_s, next(ticket), (started, stage)))
    return batches
