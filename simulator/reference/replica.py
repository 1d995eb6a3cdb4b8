"""One replica of `reference.py` as plain objects: who waits, who runs, its batches and their times."""

from __future__ import annotations

from collections import deque
from math import inf, isnan
from typing import TYPE_CHECKING

from servecast.simulator.engine.state import GAVE_UP
from servecast.simulator.reference.blocks import (
    ReferenceBlocks,
    ReferenceRequest,
)
from servecast.simulator.reference.decisions import Decisions
from servecast.simulator.reference.reference_step import ReferenceStep
from servecast.simulator.reference.stage_times import Work, chunks_s, stage_s, whole_s
from servecast.simulator.reference.tiers import ReferenceTiers

if TYPE_CHECKING:
    from servecast.simulator.engine.routing import Fleet


class ReferenceReplica:
    def __init__(self, number: int, fleet: Fleet, caching: bool, decisions: Decisions) -> None:
        self.decisions = decisions
        self.number, self.tables, self.limits = number, fleet.tables, fleet.limits
        self.tiers = fleet.modes.tiers
        self.blocks = ReferenceBlocks(fleet.limits, caching, ReferenceTiers(self.tiers))
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
        self.blocking_sends = fleet.modes.blocking_sends
        self.speculation = fleet.modes.speculation
        self.lookahead = self.speculation.lookahead if self.speculation else 0
        self.longest = self.speculation.longest if self.speculation else 0
        self.continued = self.prefilling = (
            False  # the batch that is being formed: a request, a prompt
        )
        self.taken = 0  # tokens of the batch that is being formed
        self.most: int | None = None  # that it may have; None: not decided
        self.now_s = 0.0  # when
        self.load_s = 0.0  # that its KV takes from other tiers
        self.num_steps = 0
        self.stalled = 0  # steps since one that brought a token
        self.left_queue: list[ReferenceRequest] = []  # since the last batch
        self.left_out = 0  # who waited still when it was formed

    def wake(self, now_s: float) -> None:
        """A batch may be formed now; where they are formed ahead it waits for the step."""
        if not (self.ahead and self.flights):
            self.due_s = now_s

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
        for request, gained in step.gains.items():
            self.stalled = 0
            if request.gone or request.known == request.total:  # formed before its last was known
                continue
            emitted = min(gained, request.total - request.known)
            request.emit(emitted, step.end_s, (self.number, step.number))
            if request.preemptions == step.preemptions[request]:  # not preempted while in flight
                request.expected -= 1
                self.settle(request, step)
            if request.known == request.total:
                (self.running if request in self.running else self.waiting).remove(request)
                self.blocks.release(request)
                finished.append(request)
        return finished

    def settle(self, request: ReferenceRequest, step: ReferenceStep) -> None:
        """What was rejected is not there; what is there can be found, at once or from the next batch on."""
        if not self.speculation:
            self.blocks.remember(request, request.computed - request.expected)
        elif self.ahead:
            request.computed -= step.rejected[request]
            self.blocks.remember(request, min(request.computed, request.known - 1))
        else:
            request.computed = min(request.computed, request.known - 1)

    def drop(self, request: ReferenceRequest) -> None:
        """Its client has left: what a batch in flight brings it is for nobody."""
        (self.running if request in self.running else self.waiting).remove(request)
        self.blocks.release(request)

    def lose(self, now_s: float) -> list[ReferenceRequest]:
        """The node is gone, with its batches and caches; who was there."""
        for step in self.flights:
            step.start_s, step.end_s = min(step.start_s, now_s), min(step.end_s, now_s)
        self.flights.clear()
        there = [*self.running, *self.waiting]
        self.running, self.waiting, self.due_s = [], [], inf
        self.stage_free_s = [now_s] * self.tables.num_stages
        self.blocks = ReferenceBlocks(self.limits, self.blocks.caching, ReferenceTiers(self.tiers))
        for request in there:
            request.blocks, request.in_flight = [], 0
            request.start_again()
        return there

    def preempt(self) -> ReferenceRequest | None:
        candidates = [r for r in self.running if self.ahead or not r.in_flight]
        if not candidates:
            return None
        victim = self.decisions.victim(candidates, self.now_s)
        self.running.remove(victim)
        self.waiting.append(victim)
        self.blocks.release(victim)
        victim.start_again()
        victim.preemptions += 1
        return victim

    def schedule(self, now_s: float) -> bool:
        """Form a batch of (request, tokens) and launch it; False if nothing can be scheduled."""
        batch: dict[ReferenceRequest, int] = {}
        self.taken, self.prefilling, self.now_s = 0, False, now_s
        self.most = None
        short = False  # of memory
        for request in list(self.running):
            asked = self.to_compute(request) if request in self.running else 0
            self.set_budget(batch, asked > 0 and not request.decoding)
            tokens = min(asked, self.left)
            if tokens == 0:
                continue
            while not self.blocks.fits(request, request.computed + tokens + self.lookahead):
                short = True
                victim = self.preempt()
                if victim is not None and victim in batch:
                    self.taken -= batch.pop(victim)
                if victim is None or victim is request:
                    break
            else:
                self.take(request, tokens, batch)
                self.prefilling |= not request.decoding
        for request in batch:
            self.blocks.remember(request, min(request.computed, request.known))
        self.continued = len(batch) > 0
        if not short:
            self.set_budget(batch, len(self.waiting) > 0)
            self.admit(now_s, batch)
        if batch:
            self.launch(now_s, batch)
        return bool(batch)

    def set_budget(self, batch: dict[ReferenceRequest, int], prompts: bool) -> None:
        """Once a batch has its decodes and there are prompts for it."""
        if prompts and self.most is None:
            limit = self.limits.max_batched_tokens
            self.most = self.decisions.budget(batch, len(self.waiting), self.now_s, limit)

    def to_compute(self, request: ReferenceRequest) -> int:
        """Tokens that it could have in a batch now: none once those in flight bring its last."""
        sure = request.known + (request.expected if self.ahead else 0)
        if self.ahead and request.decoding and self.longest and sure < request.total:
            return 1 + request.draft()  # behind what is in flight, as if all of it were accepted
        tokens = max(sure - request.computed, 0) if sure < request.total else 0
        return tokens + request.draft() if tokens and request.decoding else tokens

    def admit(self, now_s: float, batch: dict[ReferenceRequest, int]) -> None:
        while self.waiting and self.left and len(self.running) < self.limits.max_num_seqs:
            request = self.decisions.next_waiting(self.waiting, now_s)
            if isnan(request.scheduled_s) and now_s > request.arrival_s + self.patience_s:
                self.waiting.remove(request)
                request.why = GAVE_UP
                self.left_queue.append(request)
                continue
            hits = self.blocks.find(request)
            below = self.blocks.find_below(request, len(hits))
            loaded = (len(hits) + len(below)) * self.limits.block_tokens
            first = isnan(request.scheduled_s)
            if not self.blocks.caching and first:
                loaded = request.loaded
            tokens = min(request.known - loaded, self.left)
            if self.pads(request, loaded):
                tokens = 1 + self.longest
                if tokens > self.left:
                    break
            reserved = loaded + tokens + self.lookahead
            if self.limits.reserve_prompt:
                reserved = max(reserved, request.known)
            watermark = self.limits.watermark_blocks if self.running else 0
            shared = sum(block.references > 0 for block in hits)
            if self.blocks.count(reserved) - shared > len(self.blocks.free) - watermark:
                break
            self.waiting.remove(request)
            self.running.append(request)
            request.prefill = request.known
            if first:
                request.scheduled_s, request.hit = now_s, loaded
            self.load_s += self.blocks.below.load(below)
            self.blocks.adopt(request, hits)
            request.computed = loaded
            self.take(request, tokens, batch)
            self.blocks.remember(request, request.computed)

    def pads(self, request: ReferenceRequest, loaded: int) -> bool:
        """A prompt's single token is padded to the length of a check, beside checks: vLLM does it so that
        one captured graph fits the batch."""
        alone = request.known - loaded == 1 and self.longest > 0
        return alone and not self.prefilling and (self.continued or loaded > 0)

    @property
    def left(self) -> int:
        """Of the token budget."""
        return (self.limits.max_batched_tokens if self.most is None else self.most) - self.taken

    def take(
        self, request: ReferenceRequest, tokens: int, batch: dict[ReferenceRequest, int]
    ) -> None:
        request.computed += tokens
        self.blocks.take(request, request.computed + self.lookahead)
        batch[request] = tokens
        self.taken += tokens

    def launch(self, now_s: float, batch: dict[ReferenceRequest, int]) -> None:
        step = self.step_of(batch)
        work = step.work
        at_s = self.launched_s(now_s)
        step.start_s = max(at_s, self.stage_free_s[0])
        for stage in range(self.tables.num_stages):
            time_s = stage_s(self.tables, stage, work) + (0.0 if stage else self.load_s)
            if self.speculation and stage == self.tables.num_stages - 1:
                time_s += self.draft_s(step, work)
            step.end_s = max(at_s, self.stage_free_s[stage]) + time_s
            at_s = step.end_s + float(self.tables.send_s[stage, step.tokens])
            self.stage_free_s[stage] = at_s if self.blocking_sends else step.end_s
            step.prefill_s += chunks_s(self.tables, stage, work)
        for request in batch:
            request.in_flight += 1
        for request in step.gains:
            request.expected += 1
            request.decoding = True
        self.num_steps, self.load_s = self.num_steps + 1, 0.0
        self.stalled += 1
        self.flights.append(step)

    def launched_s(self, now_s: float) -> float:
        """When a batch that is formed now can start, on a free stage."""
        hidden = bool(self.flights) and self.ahead  # the host works while a step runs
        return now_s + (self.tables.host_step_s if hidden else 0.0)

    def run_along(self, now_s: float) -> None:
        """One token of nobody, in a step that other ranks have work for."""
        start_s = max(self.launched_s(now_s), self.stage_free_s[0])
        end_s = start_s + whole_s(self.tables, Work(1, 1, (), 1, 0))
        self.flights.append(
            ReferenceStep(start_s, end_s, 1, 1, 1, 0, 0, self.number, {}, {}, 0, {})
        )

    def step_of(self, batch: dict[ReferenceRequest, int]) -> ReferenceStep:
        """The batch, before it has times."""
        decodes = [r for r in batch if r.decoding]
        for request in batch:
            request.drafted = request.decoding and self.speculation is not None
        emitting = [r for r in batch if r.computed >= r.known + r.expected]
        gains = {r: r.gain(batch[r]) for r in emitting}
        return ReferenceStep(
            start_s=0.0,
            end_s=0.0,
            tokens=sum(batch.values()),
            sequences=len(batch),
            decodes=len(decodes),
            cached=sum(r.computed - batch[r] for r in decodes),
            used_blocks=self.blocks.total - len(self.blocks.free),
            replica=self.number,
            scheduled=batch,
            preemptions={r: r.preemptions for r in batch},
            number=self.num_steps,
            gains=gains,
            rejected={r: self.rejected(r, batch[r], gains[r]) for r in emitting},
        )

    def rejected(self, request: ReferenceRequest, tokens: int, gained: int) -> int:
        """Of its tokens in the batch those that bring nothing: of a draft, or of a padded prompt."""
        return tokens - gained if request.drafted else request.computed - request.known

    def draft_s(self, step: ReferenceStep, work: Work) -> float:
        """The drafter's passes: over all tokens of the step, then one for each further token of a draft."""
        assert self.speculation is not None
        tables, times = self.speculation.drafter or self.tables, self.speculation.longest - 1
        share = 1.0 if self.speculation.drafter else self.speculation.cost
        if share == 0.0:
            return 0.0
        count = len(step.gains)
        cached = sum(request.computed for request in step.gains)
        more_s = whole_s(tables, Work(count, count, (), count, cached)) if count else 0.0
        first_s = whole_s(tables, Work(work.tokens, count, work.chunks, work.decodes, work.cached))
        return share * (first_s + times * more_s)
