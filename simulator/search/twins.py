"""Whether two configurations are one: they differ in limits alone, and none of these held anybody back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servecast.simulator.engine.dispatch import DEFERRED
from servecast.simulator.engine.orders import ORDERS
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.records import Most, Records
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.metrics.attained import Run
from servecast.simulator.search.serving import Serving
from servecast.simulator.traffic.workload import Workload


@dataclass(frozen=True, slots=True)
class Peak:
    """No replica had more requests running, tokens in a step or KV blocks in use, in any run looked at."""

    running: int = 0
    tokens: int = 0
    kv_blocks: int = 0

    @classmethod
    def of(cls, found: Run) -> Peak:
        """Of prefill and decode apart none is kept: their pools have limits of their own."""
        if not isinstance(found, Records) or not (found.most or len(found.steps)):
            return cls()
        most = found.most or _most(found)
        # Each lane of a pipeline runs a batch; a prefill that finds no room in any runs, too.
        return cls(found.stages * most.sequences + 1, most.tokens, most.used_blocks)

    def most(self, *others: Peak) -> Peak:
        every = (self, *others)
        return Peak(
            max(peak.running for peak in every),
            max(peak.tokens for peak in every),
            max(peak.kv_blocks for peak in every),
        )


def _most(found: Records) -> Most:
    steps = found.steps
    return Most(*(int(steps[name].max()) for name in ("tokens", "sequences", "used_blocks")))


def are_twins(one: Fleet, other: Serving, peak: Peak, workload: Workload) -> bool:
    """Whether the other would do, step by step, what one did in the runs of ``peak``.

    A limit is no matter where the smaller of the two was never reached: then nobody was held back, and no
    chunk was cut. Blocks must have been there for the longest request, and for a block of each that runs.
    """
    if not isinstance(other, Fleet) or not _alike(one, other):
        return False
    mine, others = one.limits, other.limits
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    needed = max(-(-longest // mine.block_tokens), peak.running) + mine.watermark_blocks
    blocks = min(mine.kv_blocks, others.kv_blocks)
    caching = mine.caches_prefixes_of(workload.prefix is not None)  # blocks decide what it keeps
    return (
        _slack(mine.max_num_seqs, others.max_num_seqs, peak.running)
        and _slack(mine.max_batched_tokens, others.max_batched_tokens, peak.tokens)
        and (
            mine.kv_blocks == others.kv_blocks
            or (not caching and peak.kv_blocks + needed <= blocks)
        )
    )


def _slack(mine: int, others: int, peak: int) -> bool:
    return mine == others or peak < min(mine, others)


def _alike(one: Fleet, other: Fleet) -> bool:
    """All but three limits are equal, and the scheduler is the engine's own, which reads them as here."""
    mine = replace(
        one.limits,
        max_num_seqs=other.limits.max_num_seqs,
        max_batched_tokens=other.limits.max_batched_tokens,
        kv_blocks=other.limits.kv_blocks,
    )
    return (
        one.tables is other.tables
        and mine == other.limits
        and (one.replicas, one.router, one.policy) == (other.replicas, other.router, other.policy)
        and not (one.modes.names or other.modes.names)
        and not mine.async_scheduling
        and parse_policy(one.policy).name in ORDERS
        and parse_router(one.router).router.rule != DEFERRED
    )
