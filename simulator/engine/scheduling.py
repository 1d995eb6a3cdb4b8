"""What a scheduler that is a plain class sees and answers, and how its batches are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from servecast.compiler.errors import UserError


class LivelockError(UserError):
    """Requests evict each other for ever and none gets a token."""

    exit_code = 1


@dataclass(slots=True, eq=False)
class Job:
    """One request as a scheduler sees it. ``processed`` tokens have their KV cached or came out last.

    ``key`` orders admission where a policy says so; ``prefix`` are the ids of the prompt's blocks.
    """

    number: int
    arrived_s: float
    prefill_tokens: int
    decode_tokens: int
    key: int = 0
    client: int = 0
    prefix: tuple[int, ...] = ()
    processed: int = 0
    emitted: int = 0
    prefilled: bool = False
    restarts: int = 0
    preemptions: int = 0  # restarts, and times that it was swapped out
    replica: int = 0
    scheduled_s: float = float("nan")
    first_token_s: float = float("nan")
    finished_s: float = float("nan")
    runs: list[list[int]] = field(default_factory=list)
    """First and last of consecutive batches of its replica that brought it a token."""

    @property
    def finished(self) -> bool:
        return self.processed == self.prefill_tokens + self.decode_tokens

    @property
    def prefill_left(self) -> int:
        """Tokens before the next one comes out, besides the last that did."""
        return 0 if self.prefilled else self.prefill_tokens - self.processed

    def progress(self, tokens: int, now_s: float, batch: int) -> None:
        """The replica's ``batch`` with so many tokens of it is over; the end of a prefill brings one more."""
        self.processed += tokens
        if not self.prefilled:
            if self.processed < self.prefill_tokens:
                return
            self.prefilled = True
            self.processed += 1
        self.emitted += 1
        if self.runs and self.runs[-1][1] == batch - 1:
            self.runs[-1][1] = batch
        else:
            self.runs.append([batch, batch])
        if self.emitted == 1:
            self.first_token_s = now_s
        if self.finished:
            self.finished_s = now_s

    def restart(self) -> None:
        """Its KV is lost: what was processed is to be prefilled again."""
        total = self.prefill_tokens + self.decode_tokens
        self.prefill_tokens = max(self.processed, self.prefill_tokens)
        self.decode_tokens = total - self.prefill_tokens
        self.processed = 0
        self.prefilled = False
        self.restarts += 1
        self.preemptions += 1


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs and the tokens that each has in this batch; what it saw of them when it was formed."""

    replica: int
    jobs: tuple[tuple[Job, int], ...]
    formed_s: float
    before: tuple[tuple[int, bool], ...] = ()  # processed, prefilled
    overhead_s: float = 0.0  # before its first stage
    free_blocks: int = 0
    start_s: list[float] = field(default_factory=list)  # by stage
    time_s: list[float] = field(default_factory=list)
    ready_s: float = 0.0  # when it is at the stage that it queues for
    end_s: float = float("nan")


class Scheduler(Protocol):
    """One replica's policy. It never looks at ``decode_tokens``: real schedulers cannot."""

    rejected: list[Job]
    free: int  # KV blocks
    overhead_s: float  # of the batch that was formed last, before it starts: swapping

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether an idle replica could bring such a request to its end."""
        ...

    def add(self, job: Job) -> None: ...

    def next_batch(self) -> list[tuple[Job, int]]:
        """Jobs and tokens for a batch now; empty if there is none."""
        ...

    def end_batch(self, jobs: Sequence[Job]) -> None:
        """The batch of these is over; those that finished give everything back."""
        ...


class Timer(Protocol):
    """Seconds of a batch: in a pipeline stage, on the way to the next, on the host when it is through."""

    host_step_s: float

    def stage_s(self, batch: Batch, stage: int) -> float: ...

    def send_s(self, batch: Batch, stage: int) -> float: ...
