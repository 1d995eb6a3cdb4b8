"""One replica of `reference.py` as plain objects: who waits, who runs, its batches and their times."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf, isnan

import numpy as np

from servecast.estimator.tables import Floats
from servecast.simulator.engine.hooks import Columns, Pick
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.reference.blocks import (
    ReferenceBlocks,
    ReferenceRequest,
)


@dataclass(slots=True)
class ReferenceStep:
    start_s: float
    end_s: float
    tokens: int
    sequences: int
    decodes: int
    cached: int
    used_blocks: int
    replica: int
    scheduled: dict[ReferenceRequest, int]  # tokens
    emitting: list[ReferenceRequest]  # those of whom a token comes out
    preemptions: dict[ReferenceRequest, int]  # that each had had


def linear(row: Floats, at: float) -> float:
    i = min(int(at), len(row) - 2)
    return float(row[i] + (row[i + 1] - row[i]) * (at - i))


def bilinear(table: Floats, x: float, y: float) -> float:
    i = min(int(x), len(table) - 2)
    below, above = linear(table[i], y), linear(table[i + 1], y)
    return below + (above - below) * (x - i)


class ReferenceReplica:
    def __init__(self, number: int, fleet: Fleet, caching: bool) -> None:
        self.number, self.tables, self.limits = number, fleet.tables, fleet.limits
        self.blocks = ReferenceBlocks(fleet.limits, caching)
        self.waiting: list[ReferenceRequest] = []
        self.running: list[ReferenceRequest] = []  # in the order of admission
        self.flights: deque[ReferenceStep] = deque()
        self.stage_free_s = [0.0] * self.tables.num_stages
        self.ahead = self.limits.async_scheduling
        self.max_queue = inf if self.limits.max_queue is None else self.limits.max_queue
        limit_s = self.limits.queue_timeout_s
        self.patience_s = inf if limit_s is None else limit_s
        self.depth = 2 if self.ahead else self.tables.num_stages  # batches in flight
        self.due_s = float("inf")  # when a batch is to be formed
        self.pick: Pick | None = None  # the user's, over these columns of all requests
        self.columns: Columns | None = None

    def next_end_s(self) -> float:
        if not self.flights:
            return float("inf")
        return self.flights[0].end_s + (0.0 if self.ahead else self.tables.host_step_s)

    def complete(self) -> list[ReferenceRequest]:
        """The oldest step in flight is processed; the requests that it finished."""
        step = self.flights.popleft()
        finished: list[ReferenceRequest] = []
        for request in step.scheduled:
            request.in_flight -= 1
        for request in step.emitting:
            request.token_s.append(step.end_s)
            request.known += 1
            if request.preemptions == step.preemptions[request]:  # not preempted while in flight
                request.expected -= 1
                self.blocks.remember(request, request.computed - request.expected)
            if request.known == request.total:
                (self.running if request in self.running else self.waiting).remove(request)
                self.blocks.release(request)
                finished.append(request)
        return finished

    def preempt(self) -> ReferenceRequest | None:
        candidates = [r for r in self.running if self.ahead or not r.in_flight]
        if not candidates:
            return None
        victim = max(candidates, key=lambda r: r.key)
        self.running.remove(victim)
        self.waiting.append(victim)
        self.blocks.release(victim)
        victim.computed, victim.expected, victim.decoding = 0, 0, False
        victim.preemptions += 1
        return victim

    def schedule(self, now_s: float) -> bool:
        """Form a batch of (request, tokens) and launch it; False if nothing can be scheduled."""
        batch: dict[ReferenceRequest, int] = {}
        short = False  # of memory
        for request in list(self.running):
            tokens = min(self.to_compute(request), self.left(batch))
            if request not in self.running or tokens == 0:
                continue
            while not self.blocks.fits(request, request.computed + tokens):
                short = True
                victim = self.preempt()
                if victim is not None and victim in batch:
                    del batch[victim]
                if victim is None or victim is request:
                    break
            else:
                self.take(request, tokens, batch)
        for request in batch:
            self.blocks.remember(request, min(request.computed, request.known))
        if not short:
            self.admit(now_s, batch)
        if batch:
            self.launch(now_s, batch)
        return bool(batch)

    def to_compute(self, request: ReferenceRequest) -> int:
        """Tokens that it could have in a batch now: none once those in flight bring its last."""
        sure = request.known + (request.expected if self.ahead else 0)
        return sure - request.computed if sure < request.total else 0

    def admit(self, now_s: float, batch: dict[ReferenceRequest, int]) -> None:
        while self.waiting and self.left(batch) and len(self.running) < self.limits.max_num_seqs:
            request = self.next_waiting(now_s)
            if isnan(request.scheduled_s) and now_s > request.arrival_s + self.patience_s:
                self.waiting.remove(request)
                request.gone = True
                continue
            hits = self.blocks.find(request)
            loaded = len(hits) * self.limits.block_tokens
            if not self.blocks.caching and not request.preemptions:
                loaded = request.loaded
            tokens = min(request.known - loaded, self.left(batch))
            reserved = request.known if self.limits.reserve_prompt else loaded + tokens
            watermark = self.limits.watermark_blocks if self.running else 0
            shared = sum(block.references > 0 for block in hits)
            if self.blocks.count(reserved) - shared > len(self.blocks.free) - watermark:
                break
            self.waiting.remove(request)
            self.running.append(request)
            if not request.preemptions:
                request.scheduled_s, request.hit = now_s, loaded
            self.blocks.adopt(request, hits)
            request.computed = loaded
            self.take(request, tokens, batch)
            self.blocks.remember(request, request.computed)

    def next_waiting(self, now_s: float) -> ReferenceRequest:
        if self.pick is None or len(self.waiting) == 1:
            return min(self.waiting, key=lambda r: r.key)
        return self.waiting[self.pick([r.place for r in self.waiting], self.columns, now_s)]

    def left(self, batch: dict[ReferenceRequest, int]) -> int:
        """Of the token budget."""
        return self.limits.max_batched_tokens - sum(batch.values())

    def take(
        self, request: ReferenceRequest, tokens: int, batch: dict[ReferenceRequest, int]
    ) -> None:
        request.computed += tokens
        self.blocks.take(request, request.computed)
        batch[request] = tokens

    def launch(self, now_s: float, batch: dict[ReferenceRequest, int]) -> None:
        decodes = [r for r in batch if r.decoding]
        step = ReferenceStep(
            start_s=0.0,
            end_s=0.0,
            tokens=sum(batch.values()),
            sequences=len(batch),
            decodes=len(decodes),
            cached=sum(r.computed - 1 for r in decodes),
            used_blocks=self.blocks.total - len(self.blocks.free),
            replica=self.number,
            scheduled=batch,
            emitting=[r for r in batch if r.computed == r.known + r.expected],
            preemptions={r: r.preemptions for r in batch},
        )
        chunks = [(r.computed - n, n) for r, n in batch.items() if not r.decoding]
        hidden = bool(self.flights) and self.ahead  # the host works while a step runs
        at_s = now_s + (self.tables.host_step_s if hidden else 0.0)
        step.start_s = max(at_s, self.stage_free_s[0])
        for stage in range(self.tables.num_stages):
            step.end_s = max(at_s, self.stage_free_s[stage]) + self.stage_s(stage, step, chunks)
            self.stage_free_s[stage] = step.end_s
            at_s = step.end_s + float(self.tables.send_s[stage, step.tokens])
        for request in batch:
            request.in_flight += 1
        for request in step.emitting:
            request.expected += 1
            request.decoding = True
        self.flights.append(step)

    def stage_s(self, stage: int, step: ReferenceStep, chunks: list[tuple[int, int]]) -> float:
        """`RuntimeTables`' formula, added up in the order in which it is written there."""
        t = self.tables
        time_s = float(t.token_s[stage, step.tokens]) + float(t.sequence_s[stage, step.sequences])
        if chunks:
            x, y = 1.0 / t.context_step_tokens, 1.0 / t.chunk_step_tokens
            attention_s = 0.0
            for context, chunk in chunks:
                attention_s += bilinear(t.prefill_s[stage], context * x, chunk * y)
            time_s += float(t.prefill_base_s[stage]) + attention_s
        if step.decodes:
            per_kv = 1.0 / t.kv_step_tokens
            time_s += linear(t.decode_s[stage, step.decodes], step.cached * per_kv)
            if chunks and len(t.mixed_chunk_tokens):
                chunk_tokens = sum(chunk for _, chunk in chunks)
                time_s += self.mixed_s(stage, chunk_tokens, step)
        return time_s

    def mixed_s(self, stage: int, chunk_tokens: int, step: ReferenceStep) -> float:
        """Between the measured numbers of prefill tokens around; the nearest outside of them."""
        t, x = self.tables, step.cached * (1.0 / self.tables.kv_step_tokens)
        points = t.mixed_chunk_tokens
        above = min(int(np.searchsorted(points, chunk_tokens)), len(points) - 1)
        below = max(above - 1, 0)
        left, right = (linear(t.mixed_s[stage, i, step.decodes], x) for i in (below, above))
        if below == above:
            return right
        share = float((chunk_tokens - points[below]) / (points[above] - points[below]))
        return left + (right - left) * min(share, 1.0)
