"""Batching policies for `object_engine.py`: those of older engines as Vidur models them, and all by name.

SOURCE: microsoft/vidur, vidur/scheduler/replica_scheduler/*.py; vLLM v0, Sarathi and Orca repeat its recorded
batches exactly.
"""

from __future__ import annotations

from collections.abc import Callable

from servecast.simulator.engine.scheduling import Job, Scheduler
from servecast.simulator.engine.token_budget import LightLLM
from servecast.simulator.reference.block_scheduler import BlockScheduler, SchedulerLimits
from servecast.simulator.reference.sglang_scheduler import SGLang
from servecast.simulator.reference.trtllm_scheduler import GuaranteedNoEvict, MaxUtilization
from servecast.simulator.reference.vllm_v1_scheduler import Vtc


class VllmV0(BlockScheduler):
    """Prompts first, in batches of their own; else one token of every running job (vLLM 0.2).

    Whoever must go is restarted, or with ``swap_blocks`` of host memory swapped out, at so many microseconds
    a block each way; those come back in order of arrival before any prompt is looked at. SOURCE: vidur's
    vllm_replica_scheduler.py; vLLM 0.2, vllm/core/scheduler.py, _schedule; Kwon et al. 2023, section 4.5.
    """

    def __init__(
        self, limits: SchedulerLimits, *, swap_blocks: int = 0, swap_us_per_block: float = 0.0
    ) -> None:
        super().__init__(limits)
        self.swapped: list[Job] = []
        self.held: dict[Job, int] = {}  # blocks in host memory
        self.swap_free, self.swap_s_per_block = swap_blocks, swap_us_per_block * 1e-6

    def servable(self, job: Job) -> bool:
        """A prompt longer than a batch would block the queue for ever; vLLM refuses it."""
        return job.prefill_tokens <= self.limits.max_batched_tokens and super().servable(job)

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        whole = prompt_tokens + output_tokens - 1  # to recompute
        fits = whole <= self.limits.max_batched_tokens
        return fits and super().can_serve(prompt_tokens, output_tokens)

    def next_batch(self) -> list[tuple[Job, int]]:
        self.overhead_s = 0.0
        prefills = [] if self.swapped else self._prefills()
        if prefills:
            return prefills
        batch = self.decodes()
        self._swap_in(batch)  # nobody who went out just now: that takes a block more than it gave
        return batch

    def restart(self, job: Job) -> None:
        """Swapped out if host memory has room, else back to the front of the queue without its KV."""
        blocks = self.blocks[job]
        if blocks > self.swap_free:
            super().restart(job)
            return
        self.swap_free -= blocks
        self.held[job] = blocks
        self.release(job)
        job.preemptions += 1
        self.swapped.append(job)
        self.overhead_s += blocks * self.swap_s_per_block

    def _swap_in(self, batch: list[tuple[Job, int]]) -> None:
        """Each needs the blocks that it had and one for the token that it gets at once."""
        self.swapped.sort(key=lambda job: job.arrived_s)
        while self.swapped and len(batch) < self.max_micro_batch:
            job = self.swapped[0]
            if self.free - self.held[job] - 1 < self.limits.watermark_blocks:
                break
            self.overhead_s += self.held[job] * self.swap_s_per_block
            self.swap_free += self.held[job]
            self.take(self.swapped.pop(0), self.held.pop(job))
            if job.processed > self.blocks[job] * self.limits.block_tokens:
                self.take(job, 1)
            batch.append((job, 1))

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


class Sarathi(BlockScheduler):
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


class _WholeLength(BlockScheduler):
    """A job reserves the longest length that there is."""

    def __init__(self, limits: SchedulerLimits) -> None:
        super().__init__(limits)
        self.reserve = limits.max_tokens // limits.block_tokens

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        usable = self.limits.kv_blocks - self.limits.watermark_blocks
        return self.reserve <= self.limits.kv_blocks and self.blocks_for(prompt_tokens) <= usable


class Orca(_WholeLength):
    """Every running job and new whole prompts in one batch; a job reserves the longest length there is.

    SOURCE: vidur's orca_replica_scheduler.py; Yu et al. 2022, section 4.2.
    """

    def next_batch(self) -> list[tuple[Job, int]]:
        going, self.running = (
            self.running[: self.limits.max_num_seqs],
            self.running[self.limits.max_num_seqs :],
        )
        batch = [(job, 1 if job.prefilled else job.prefill_tokens) for job in going]
        while self.waiting and len(batch) < self.limits.max_num_seqs and self.free >= self.reserve:
            job = self.waiting.popleft()
            self.take(job, self.reserve)
            batch.append((job, job.prefill_tokens))
        return batch


class StaticBatching(_WholeLength):
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
        batch: list[tuple[Job, int]] = []
        while self.waiting and len(batch) < self.limits.max_num_seqs and self.free >= self.reserve:
            job = self.waiting.popleft()
            self.take(job, self.reserve)
            batch.append((job, job.prefill_tokens))
        return batch


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "static": StaticBatching,
    "vllm_v0": VllmV0,
    "sarathi": Sarathi,
    "orca": Orca,
    "lightllm": LightLLM,
    "sglang": SGLang,
    "trtllm_max_utilization": MaxUtilization,
    "trtllm_no_evict": GuaranteedNoEvict,
    "vtc": Vtc,
}
