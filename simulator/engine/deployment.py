"""What bounds a replica's batches: the engine's limits, by vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """``kv_blocks`` hold ``block_tokens`` tokens each. ``watermark_blocks`` stay free when a request is
    admitted. ``reserve_prompt`` admits a request only when its whole prompt fits the free blocks
    (vLLM 0.32, vllm/config/scheduler.py: ``scheduler_reserve_full_isl``, on by default).
    ``async_scheduling`` forms a batch while the one before runs; one pipeline stage only.
    ``prefix_caching`` shares the blocks of equal prefixes, and lets a preempted request find its own again;
    None: where the workload says which prompts share any. A replica turns away who finds ``max_queue``
    waiting; whom no batch has taken ``queue_timeout_s`` after the arrival gives up.
    """

    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    block_tokens: int = 16
    watermark_blocks: int = 0
    reserve_prompt: bool = True
    async_scheduling: bool = False
    prefix_caching: bool | None = None
    max_queue: int | None = None
    queue_timeout_s: float | None = None

    def caches_prefixes_of(self, prompts_share: bool) -> bool:
        """Whether there is a prefix cache, for a workload that says which prompts share a prefix, or not."""
        return prompts_share if self.prefix_caching is None else self.prefix_caching
