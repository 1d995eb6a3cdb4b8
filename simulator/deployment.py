"""One serving configuration: the GPU, the parallelism, and the engine's limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds a replica's batches, by vLLM's names.

    ``kv_blocks`` hold ``block_tokens`` tokens each. ``watermark_blocks`` stay free when a request is
    admitted. ``reserve_prompt`` admits a request only when its whole prompt fits the free blocks.
    """

    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    block_tokens: int = 16
    watermark_blocks: int = 0
    reserve_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """A configuration as a row of the answer; ``replicas`` of tp x pp GPUs each."""

    sku: str
    tp: int
    pp: int
    limits: EngineLimits
    policy: str = "vllm_v1"
    replicas: int = 1

    @property
    def gpus_per_replica(self) -> int:
        return self.tp * self.pp
