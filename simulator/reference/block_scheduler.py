"""What most schedulers of `object_engine.py` share: who waits, who runs, and the KV blocks of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from servecast.simulator.engine.scheduling import Job


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """``max_num_seqs`` hold blocks at once, an equal share of them is in one micro-batch.

    ``max_batched_tokens``: of a prefill batch padded to its longest prompt (vLLM v0), of any batch (Sarathi).
    ``declared_output_tokens``: the most that a client may ask for, all that an engine knows of an output.
    """

    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    max_tokens: int  # of a request, prompt and output
    block_tokens: int = 16
    watermark_blocks: int = 0
    num_stages: int = 1
    reserve_prompt: bool = True
    declared_output_tokens: int = 1
    prefix_block_tokens: int = 1  # of the ids in a job's prefix


class BlockScheduler:
    """Waiting and running jobs, and the blocks that each holds."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []  # hold blocks, not in flight
        self.blocks: dict[Job, int] = {}
        self.rejected: list[Job] = []
        self.free = limits.kv_blocks
        self.overhead_s = 0.0
        self.max_micro_batch = limits.max_num_seqs // limits.num_stages

    def add(self, job: Job) -> None:
        """Let the job wait, or reject it if its prompt never fits."""
        (self.waiting if self.servable(job) else self.rejected).append(job)

    def servable(self, job: Job) -> bool:
        usable = self.limits.kv_blocks - self.limits.watermark_blocks
        return self.prompt_blocks(job) <= usable and job.prefill_tokens < self.limits.max_tokens

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether an idle replica could bring such a request to its end, restarts included.

        Asked before the run, not by the policy, which knows no output.
        """
        cached = prompt_tokens + output_tokens - 1  # the last token is never read again
        spare = max(self.limits.watermark_blocks, 1)
        return self.blocks_for(cached) + spare <= self.limits.kv_blocks

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

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def prompt_blocks(self, job: Job) -> int:
        return self.blocks_for(job.prefill_tokens)

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

    def decodes(self) -> list[tuple[Job, int]]:
        """One token of each running job, by arrival, that finds room."""
        self.running.sort(key=lambda job: job.arrived_s)
        batch: list[tuple[Job, int]] = []
        while self.running and len(batch) < self.max_micro_batch:
            job = self.running.pop(0)
            if self.secure_decode(job):
                batch.append((job, 1))
        return batch
