"""KV blocks in memories below the GPU's, as objects: what its prefix cache drops, and what comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from servecast.simulator.engine.kv_tiers import KvTier


@dataclass(slots=True, eq=False)
class ReferenceTier:
    """Blocks by hash, the least recently used first."""

    asked: KvTier
    blocks: dict[Hashable, None] = field(default_factory=dict)

    def touch(self, hash: Hashable) -> None:
        del self.blocks[hash]
        self.blocks[hash] = None


class ReferenceTiers:
    """From the one below the GPU downwards. What a tier has no room for goes to the next, at last away.
    Writing takes no time; a batch begins when all that it finds here is on the GPU.

    SOURCE: written when evicted: SGLang's HiCache, write policy write_back (mem_cache/hiradix_cache.py,
    ``evict``). Found behind the GPU's own hits, loaded before the step: LMCache in vLLM 0.32
    (lmcache_integration/vllm_v1_adapter.py, ``start_load_kv``, not by layers).
    """

    def __init__(self, tiers: tuple[KvTier, ...]) -> None:
        self.tiers = [ReferenceTier(each) for each in tiers]
        self.hits: Counter[str] = Counter()  # blocks that came back, by tier
        self.load_s = 0.0  # of them all

    def keep(self, hash: Hashable) -> None:
        """The GPU has dropped this block."""
        for tier in self.tiers:
            if hash in tier.blocks:
                tier.touch(hash)
                return
            tier.blocks[hash] = None
            if len(tier.blocks) <= tier.asked.blocks:
                return
            hash = next(iter(tier.blocks))  # the oldest goes on
            del tier.blocks[hash]

    def find(self, hash: Hashable) -> ReferenceTier | None:
        """The highest that has it."""
        return next((tier for tier in self.tiers if hash in tier.blocks), None)

    def load(self, hashes: list[Hashable]) -> float:
        """Seconds until these are on the GPU, a tier's after another's; they stay where they were, too."""
        found = {hash: self.find(hash) for hash in hashes}
        took_s = 0.0
        for tier in self.tiers:
            mine = [hash for hash in hashes if found[hash] is tier]
            for hash in mine:
                tier.touch(hash)
            if mine:
                took_s += tier.asked.latency_s + len(mine) * tier.asked.block_s
            self.hits[tier.asked.name] += len(mine)
        self.load_s += took_s
        return took_s


def tiers_report(replicas: list[ReferenceTiers], block_tokens: int) -> dict[str, Any]:
    """Of all replicas, at all admissions."""
    hits = sum((tiers.hits for tiers in replicas), Counter[str]())
    names = [tier.asked.name for tier in replicas[0].tiers]
    return {
        "hit_tokens": {name: hits[name] * block_tokens for name in names},
        "load_s": sum(tiers.load_s for tiers in replicas),
    }
