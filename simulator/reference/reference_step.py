"""A batch of `replica.py` in flight: who is in it, what comes out, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from servecast.simulator.reference.blocks import ReferenceRequest
from servecast.simulator.reference.stage_times import Work


@dataclass(slots=True)
class ReferenceStep:
    start_s: float
    end_s: float
    tokens: int
    sequences: int
    decodes: int
    cached: int
    used_blocks: int
    replica: int
    scheduled: dict[ReferenceRequest, int]  # tokens
    preemptions: dict[ReferenceRequest, int]  # that each had had
    number: int  # on its replica
    gains: dict[ReferenceRequest, int]  # tokens that come out for those
    rejected: dict[ReferenceRequest, int] = field(default_factory=dict)  # drafted tokens of those
    prefill_s: float = 0.0  # attention of the prefill chunks, over all stages

    @property
    def work(self) -> Work:
        batch = self.scheduled
        decodes = sum(n for r, n in batch.items() if r.decoding)
        return Work(
            tokens=self.tokens,
            rows=self.sequences - self.decodes + decodes,
            chunks=tuple([(r.computed - n, n) for r, n in batch.items() if not r.decoding]),
            decodes=self.decodes,
            cached=self.cached,
        )
