"""A policy's decisions about plain objects: by the user's functions (`hooks.py`), or as vLLM v1 has them."""

from __future__ import annotations

from collections.abc import Sequence

from servecast.simulator.engine.hooks import columns_of
from servecast.simulator.engine.policy import Policy
from servecast.simulator.engine.state import BUDGET, PICK, VICTIM
from servecast.simulator.reference.blocks import ReferenceRequest


class Decisions:
    """Those of one policy about the requests of one run."""

    def __init__(self, policy: Policy, served: Sequence[ReferenceRequest]) -> None:
        self.pick, self.victim_of = policy.decision(PICK), policy.decision(VICTIM)
        self.budget_of = policy.decision(BUDGET)
        self.columns = columns_of(served)

    def next_waiting(self, waiting: list[ReferenceRequest], now_s: float) -> ReferenceRequest:
        """Whom to admit: the smallest key."""
        if self.pick is None or len(waiting) == 1:
            return min(waiting, key=lambda r: r.key)
        return waiting[self.pick([r.place for r in waiting], self.columns, now_s)]

    def victim(self, running: list[ReferenceRequest], now_s: float) -> ReferenceRequest:
        """Whom to preempt: the largest key."""
        if self.victim_of is None or len(running) == 1:
            return max(running, key=lambda r: r.key)
        return running[self.victim_of([r.place for r in running], self.columns, now_s)]

    def budget(
        self, decodes: dict[ReferenceRequest, int], waiting: int, now_s: float, limit: int
    ) -> int:
        """The most tokens of a batch that has its decodes: at least those, and one; the limit."""
        if self.budget_of is None:
            return limit
        cached = sum(request.computed - tokens for request, tokens in decodes.items())
        tokens = self.budget_of(len(decodes), cached, waiting, now_s)
        return min(max(tokens, sum(decodes.values()), 1), limit)
