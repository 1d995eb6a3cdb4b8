"""LightLLM's admission by the highest number of tokens that the running requests may come to hold."""

from __future__ import annotations

from itertools import accumulate
from math import ceil

from servecast.simulator.engine.scheduling import Job
from servecast.simulator.reference.block_scheduler import BlockScheduler, SchedulerLimits


class LightLLM(BlockScheduler):
    """Prompts in batches of their own, after every ``wait_steps`` steps of decodes while something runs.

    A prompt is admitted if the cache holds all even at the worst moment: some of the admitted have got their
    declared output, and those with fewer tokens to come are gone. ``reserve`` below 1 counts on a share of
    the declared output; then decodes may find no block, and the latest is restarted.

    SOURCE: ModelTC/lightllm, lightllm/server/router/req_queue.py (_can_add_new_req, generate_new_batch) and
    manager.py (_step, max_wait_tokens); Gong et al. 2025 (Past-Future scheduler) explain the budget.
    """

    def __init__(
        self, limits: SchedulerLimits, *, wait_steps: int = 10, reserve: float = 1.0
    ) -> None:
        super().__init__(limits)
        self.wait_steps, self.reserve = wait_steps, reserve
        self.waited = 0

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        declared = ceil(self.reserve * self.limits.declared_output_tokens)
        most = prompt_tokens + max(output_tokens, declared) - 1
        fits = most <= self.limits.kv_blocks * self.limits.block_tokens
        whole = prompt_tokens + output_tokens - 1 <= self.limits.max_batched_tokens  # to recompute
        return fits and whole and super().can_serve(prompt_tokens, output_tokens)

    def next_batch(self) -> list[tuple[Job, int]]:
        if self.waited >= self.wait_steps or not self.blocks:
            batch = self._prefills()
            if batch:
                self.waited = 0
                return batch
        self.waited += 1
        return self.decodes()

    def _prefills(self) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        left = self.limits.max_batched_tokens
        held = list(self.blocks)
        while self.waiting and len(batch) < self.max_micro_batch:
            job = self.waiting[0]
            fits = (
                self.peak_tokens([*held, job]) <= self.limits.kv_blocks * self.limits.block_tokens
            )
            if job.prefill_tokens > left or not fits or not self.admissible(job):
                break
            if len(held) == self.limits.max_num_seqs:
                break
            left -= job.prefill_tokens
            self.take(self.waiting.popleft(), self.prompt_blocks(job))
            held.append(job)
            batch.append((job, job.prefill_tokens))
        return batch

    def peak_tokens(self, jobs: list[Job]) -> int:
        """The most tokens that these hold at once, if each gets all that it may: just before the one with
        the n-th most tokens to come ends, it and the n - 1 others have grown by as many as it."""
        declared = ceil(self.reserve * self.limits.declared_output_tokens)
        rows = sorted(
            ((max(declared - job.emitted - 1, 0), self._held_tokens(job)) for job in jobs),
            reverse=True,
        )
        held = list(accumulate(tokens for _, tokens in rows))
        return max(left * n + held[n - 1] for n, (left, _) in enumerate(rows, 1))

    def _held_tokens(self, job: Job) -> int:
        return max(job.processed, job.prefill_tokens)
