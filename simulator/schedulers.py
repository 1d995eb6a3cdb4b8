"""Batching policies of older engines, as Vidur models them, for `object_engine.py`.

SOURCE: microsoft/vidur, vidur/scheduler/replica_scheduler/*.py; vLLM v0, Sarathi and Orca repeat its recorded
batches exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servecast.simulator.object_engine import Job, Scheduler


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """``max_num_seqs`` hold blocks at once, an equal share of them is in one micro-batch.

    ``max_batched_tokens``: of a prefill batch padded to its longest prompt (vLLM v0), of any batch (Sarathi).
    """

    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    max_tokens: int  # of a request, prompt and output
    block_tokens: int = 16
    watermark_blocks: int = 0
    num_stages: int = 1


class _BlockScheduler:
    """Waiting and running jobs, and the blocks that each holds."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []  # hold blocks, not in flight
        self.blocks: dict[Job, int] = {}
        self.rejected: list[Job] = []
        self.free = limits.kv_blocks
        self.max_micro_batch = limits.max_num_seqs // limits.num_stages

    def add(self, job: Job) -> None:
        """Let the job wait, or reject it if its prompt never fits."""
        (self.waiting if self.servable(job) else self.rejected).append(job)

    def servable(self, job: Job) -> bool:
        usable = self.limits.kv_blocks - self.limits.watermark_blocks
        return self.prompt_blocks(job) <= usable and job.prefill_tokens < self.limits.max_tokens

    def end_batch(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.finished:
                self.release(job)
            else:
                self.running.append(job)

    def take(self, job: Job, blocks: int) -> None:
        self.free -= blocks
        self.blocks[job] = self.blocks.get(job, 0) + blocks

    def release(self, job: Job) -> None:
        self.free += self.blocks.pop(job)

    def prompt_blocks(self, job: Job) -> int:
        return -(-job.prefill_tokens // self.limits.block_tokens)

    def admissible(self, job: Job) -> bool:
        return self.free - self.prompt_blocks(job) >= self.limits.watermark_blocks

    def restart(self, job: Job) -> None:
        """Back to the front of the queue, without its KV."""
        job.restart()
        self.release(job)
        self.waiting.appendleft(job)

    def secure_decode(self, job: Job) -> bool:
        """Make room for one more token of a running job, restarting the last ones, itself at the end.

        One block must be free even where the token needs none.
        """
        while self.free < 1:
            if not self.running:
                self.restart(job)
                return False
            self.restart(self.running.pop())
        if job.processed > self.blocks[job] * self.limits.block_tokens:
            self.take(job, 1)
        return True


class VllmV0(_BlockScheduler):
    """Prompts first, in batches of their own; else one token of every running job (vLLM 0.2).

    SOURCE: vidur's vllm_replica_scheduler.py; Kwon et al. 2023, section 4.5.
    """

    def servable(self, job: Job) -> bool:
        """A prompt longer than a batch would block the queue for ever; vLLM refuses it."""
        return job.prefill_tokens <= self.limits.max_batched_tokens and super().servable(job)

    def next_batch(self) -> list[tuple[Job, int]]:
        return self._prefills() or self._decodes()

    def _prefills(self) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        longest = 0
        while self.waiting and len(batch) < self.max_micro_batch:
            job = self.waiting[0]
            longest = max(longest, job.prefill_tokens)
            padded = (len(batch) + 1) * longest
            if padded > self.limits.max_batched_tokens or not self.admissible(job):
                break
            if len(self.blocks) == self.limits.max_num_seqs:
                break
            self.take(self.waiting.popleft(), self.prompt_blocks(job))
            batch.append((job, job.prefill_tokens))
        return batch

    def _decodes(self) -> list[tuple[Job, int]]:
        self.running.sort(key=lambda job: job.arrived_s)
        batch: list[tuple[Job, int]] = []
        while self.running and len(batch) < self.max_micro_batch:
            job = self.running.pop(0)
            if self.secure_decode(job):
                batch.append((job, 1))
        return batch


class Sarathi(_BlockScheduler):
    """Decodes, then what the token budget leaves to partial prefills and then to new ones.

    All blocks of a prompt are taken when it is admitted. SOURCE: vidur's sarathi_replica_scheduler.py;
    Agrawal et al. 2024, algorithm 3.
    """

    def next_batch(self) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        partial: list[Job] = []
        while self.running and len(batch) < self.max_micro_batch:
            job = self.running.pop(0)
            if not job.prefilled:
                partial.append(job)
            elif self.secure_decode(job):
                batch.append((job, 1))
        skipped = [job for job in partial if not self._add_chunk(batch, job)]
        self.running = sorted(skipped + self.running, key=lambda job: job.arrived_s)
        while self.waiting and len(batch) < self.max_micro_batch:
            job = self.waiting[0]
            full = len(self.blocks) == self.limits.max_num_seqs
            if full or not self.admissible(job) or not self._add_chunk(batch, job):
                break
            self.take(self.waiting.popleft(), self.prompt_blocks(job))
        return batch

    def _add_chunk(self, batch: list[tuple[Job, int]], job: Job) -> bool:
        """Whether the budget had a token left for this prefill."""
        left = self.limits.max_batched_tokens - sum(tokens for _, tokens in batch)
        chunk = min(job.prefill_tokens - job.processed, left)
        if chunk > 0:
            batch.append((job, chunk))
        return chunk > 0


class Orca(_BlockScheduler):
    """Every running job and new whole prompts in one batch; a job reserves the longest length there is.

    SOURCE: vidur's orca_replica_scheduler.py; Yu et al. 2022, section 4.2.
    """

    def next_batch(self) -> list[tuple[Job, int]]:
        reserve = self.limits.max_tokens // self.limits.block_tokens
        going, self.running = (
            self.running[: self.limits.max_num_seqs],
            self.running[self.limits.max_num_seqs :],
        )
        batch = [(job, 1 if job.prefilled else job.prefill_tokens) for job in going]
        while self.waiting and len(batch) < self.limits.max_num_seqs and self.free >= reserve:
            job = self.waiting.popleft()
            self.take(job, reserve)
            batch.append((job, job.prefill_tokens))
        return batch


class StaticBatching(_BlockScheduler):
    """One batch until its longest job is done; who is done earlier leaves its place empty.

    A job reserves the longest length there is. SOURCE: NVIDIA FasterTransformer, as vidur's
    faster_transformer_replica_scheduler.py has it.
    """

    def next_batch(self) -> list[tuple[Job, int]]:
        if self.running:
            going, self.running = self.running, []
            return [(job, 1) for job in going]
        if self.blocks:  # its jobs are in flight
            return []
        reserve = self.limits.max_tokens // self.limits.block_tokens
        batch: list[tuple[Job, int]] = []
        while self.waiting and len(batch) < self.limits.max_num_seqs and self.free >= reserve:
            job = self.waiting.popleft()
            self.take(job, reserve)
            batch.append((job, job.prefill_tokens))
        return batch


SCHEDULERS: dict[str, Callable[[SchedulerLimits], Scheduler]] = {
    "static": StaticBatching,
    "vllm_v0": VllmV0,
    "sarathi": Sarathi,
    "orca": Orca,
}
