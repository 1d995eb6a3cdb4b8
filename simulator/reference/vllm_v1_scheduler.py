"""vLLM v1's batching as a plain class: the same decisions as `engine.py`'s, and options that it has not."""

from __future__ import annotations

from collections.abc import Sequence

from servecast.simulator.engine.scheduling import Job
from servecast.simulator.reference.block_scheduler import BlockScheduler, SchedulerLimits


class VllmV1(BlockScheduler):
    """Running jobs take their next tokens, then waiting ones are admitted; the last in order is preempted.

    ``long_prefill_threshold`` is the most tokens that one prefill takes in a step, so that several prompts
    share it (0: no limit); a request that is alone takes all. SOURCE: vLLM 0.32,
    vllm/v1/core/sched/scheduler.py, Scheduler.schedule (``long_prefill_token_threshold``,
    ``scheduler_reserve_full_isl``).
    """

    def __init__(self, limits: SchedulerLimits, *, long_prefill_threshold: int = 0) -> None:
        super().__init__(limits)
        self.asked_threshold = long_prefill_threshold
        self.threshold = limits.max_batched_tokens  # of the batch that is being formed
        self.batch: dict[Job, int] = {}  # that is being formed
        self.taken = 0  # its tokens
        self.admissions: dict[Job, int] = {}  # of the running, in what order
        self.num_admitted = 0

    def servable(self, job: Job) -> bool:
        return True

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        cached = prompt_tokens + output_tokens - 1  # the last token is never read again
        return self.blocks_for(cached) <= self.limits.kv_blocks

    def next_batch(self) -> list[tuple[Job, int]]:
        self.batch, self.taken = {}, 0
        self.threshold = self._prefill_threshold()
        if not self._continue():
            self._admit()
        self.running = [job for job in self.running if job not in self.batch]
        return list(self.batch.items())

    def _prefill_threshold(self) -> int:
        alone = len(self.running) + len(self.waiting) <= 1
        return self.limits.max_batched_tokens if alone else self.asked_threshold or self.left

    @property
    def left(self) -> int:
        """Of the token budget."""
        return self.limits.max_batched_tokens - self.taken

    def _continue(self) -> bool:
        """Give the running jobs their next tokens; True if memory was short."""
        short = False
        self.running.sort(key=lambda job: self.admissions[job])
        for job in list(self.running):
            tokens = min(job.prefill_left or 1, self.threshold, self.left)
            if tokens == 0 or job not in self.blocks:
                continue
            while self._needed(job, tokens) > self.free:
                short = True
                victim = max(self.running, key=lambda job: job.key)
                self.running.remove(victim)
                self.taken -= self.batch.pop(victim, 0)
                self.restart(victim)
                if victim is job:
                    break
            else:
                self._take_tokens(job, tokens)
        return short

    def _needed(self, job: Job, tokens: int) -> int:
        """Blocks more than it has, to cache so many tokens more."""
        cached = job.processed - 1 if job.prefilled else job.processed
        return self.blocks_for(cached + tokens) - self.blocks.get(job, 0)

    def _take_tokens(self, job: Job, tokens: int) -> None:
        self.take(job, self._needed(job, tokens))
        self.batch[job] = tokens
        self.taken += tokens

    def _admit(self) -> None:
        while self.waiting and self.left and len(self.blocks) < self.limits.max_num_seqs:
            job = self.pick()
            tokens = self.first_chunk(job)
            if tokens == 0 or not self.has_room(job, tokens):
                break
            self.waiting.remove(job)
            self.admissions[job] = self.num_admitted = self.num_admitted + 1
            self.admitted(job)
            self._take_tokens(job, tokens)

    def first_chunk(self, job: Job) -> int:
        """Tokens of a waiting job that the next batch could take; 0: none."""
        return min(job.prefill_tokens, self.threshold, self.left)

    def has_room(self, job: Job, tokens: int) -> bool:
        """Whether there are blocks to admit it."""
        reserved = job.prefill_tokens if self.limits.reserve_prompt else tokens
        watermark = self.limits.watermark_blocks if self.blocks else 0
        return self.blocks_for(reserved) <= self.free - watermark

    def pick(self) -> Job:
        """Whose turn it is among the waiting."""
        return min(self.waiting, key=lambda job: job.key)

    def admitted(self, job: Job) -> None:
        """The job leaves the queue."""


class Vtc(VllmV1):
    """The client with the least service goes first, among its requests the oldest; vLLM v1's batches.

    A client's counter rises by ``input_weight`` for each prompt token when a request is admitted, by
    ``output_weight`` for each token that comes out. A client without waiting requests that sends one is
    lifted to the least counter among those who wait, so that nobody saves up service.

    SOURCE: Sheng et al. 2024 (Fairness in serving large language models, OSDI), algorithm 2.
    """

    def __init__(
        self, limits: SchedulerLimits, *, input_weight: float = 1.0, output_weight: float = 2.0
    ) -> None:
        super().__init__(limits)
        self.input_weight, self.output_weight = input_weight, output_weight
        self.service: dict[int, float] = {}

    def add(self, job: Job) -> None:
        waiting = {other.client for other in self.waiting}
        if job.client not in waiting:
            least = min((self.service[client] for client in waiting), default=0.0)
            self.service[job.client] = max(self.service.get(job.client, 0.0), least)
        super().add(job)

    def pick(self) -> Job:
        return min(self.waiting, key=lambda job: (self.service[job.client], job.key))

    def admitted(self, job: Job) -> None:
        if job.preemptions == 0:
            self.service[job.client] += self.input_weight * job.prefill_tokens

    def end_batch(self, jobs: Sequence[Job]) -> None:
        super().end_batch(jobs)
        for job in jobs:
            if job.prefilled:
                self.service[job.client] += self.output_weight


BATCHING: dict[str, float] = {"long_prefill_threshold": 0}
"""Parameters of `VllmV1`, and so of every order of service, that the compiled engine does not have."""
