"""TensorRT-LLM's in-flight batching with both of its capacity policies.

SOURCE: NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp (MaxUtilizationScheduler,
GuaranteedNoEvictScheduler) and microBatchScheduler.cpp. Batches are those of vLLM v1: generation, then
context, whole where ``chunked_context`` is 0.
"""

from __future__ import annotations

from dataclasses import replace

from servecast.simulator.engine.scheduling import Job
from servecast.simulator.reference.block_scheduler import SchedulerLimits
from servecast.simulator.reference.vllm_v1_scheduler import VllmV1


class MaxUtilization(VllmV1):
    """Admits what fits now; when blocks run out, the request started last is paused and recomputed."""

    def __init__(self, limits: SchedulerLimits, *, chunked_context: int = 0) -> None:
        super().__init__(replace(limits, watermark_blocks=0, reserve_prompt=True))
        self.chunked = bool(chunked_context)

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        whole = prompt_tokens + output_tokens - 1  # to recompute
        fits = self.chunked or whole <= self.limits.max_batched_tokens
        return fits and super().can_serve(prompt_tokens, output_tokens)

    def first_chunk(self, job: Job) -> int:
        if self.chunked or job.prefill_tokens <= self.left:
            return super().first_chunk(job)
        return 0


class GuaranteedNoEvict(MaxUtilization):
    """Admits a request only if all that it and the running may come to hold fits: none is ever paused."""

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        fits = self.chunked or prompt_tokens <= self.limits.max_batched_tokens
        most = prompt_tokens + max(output_tokens, self.limits.declared_output_tokens) - 1
        return fits and self.blocks_for(most) <= self.limits.kv_blocks

    def has_room(self, job: Job, tokens: int) -> bool:
        held = sum(self._most_blocks(other) for other in self.blocks)
        return held + self._most_blocks(job) <= self.limits.kv_blocks

    def _most_blocks(self, job: Job) -> int:
        return self.blocks_for(job.prefill_tokens + self.limits.declared_output_tokens - 1)
