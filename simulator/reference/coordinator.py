"""How many requests vLLM's data-parallel ranks have, as their balancer knows it.

A rank that counts other requests after a step than before tells a coordinator. That tells the balancer, at
most every ``INTERVAL_S``, what all ranks counted in one step. SOURCE: vLLM 0.19,
``vllm/v1/engine/coordinator.py`` (``process_input_socket``), ``core.py`` (``_maybe_publish_request_counts``)
and ``core_client.py`` (``DPLBAsyncMPClient.get_core_engine_for_request``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

INTERVAL_S = 0.1
"""Between two messages to the balancer, while counts change."""
UNCHANGED_S = 5.0
"""Between two that say the same."""
QUIET_S = 0.05
"""So long after a rank's word its step is held for complete; before that, if a rank tells of a later one."""
WAITING = 4
"""Running requests that one which waits is worth."""

Counts = tuple[int, int]  # waiting, running


class Coordinator:
    """The balancer hears a rank's word, by way of the coordinator, ``message_s`` late."""

    def __init__(self, ranks: int, message_s: float = 0.0) -> None:
        self.message_s = message_s
        self.words: deque[tuple[float, int, Counts]] = deque()  # that nobody has heard
        self.counts: list[Counts] = [(0, 0)] * ranks
        self.complete: list[Counts] | None = None  # of the step before, if the balancer lacks them
        self.changed = False
        self.step_s, self.told_s = -inf, -inf  # the newest step; the last message
        self.due_s = inf  # the next, if no word comes before
        self.loads = [0] * ranks  # as the balancer has them

    def report(self, rank: int, now_s: float, counts: Counts) -> None:
        """After a step; ranks in lock step end theirs in one instant."""
        self.words.append((now_s + self.message_s, rank, counts))

    def choose(self, ranks: Sequence[int], now_s: float) -> int:
        """The first with the least load; it has one more waiting, until the next message says otherwise."""
        while self.words and self.words[0][0] <= now_s:
            self._hear(*self.words.popleft())
        self._tell(now_s)
        chosen = min(ranks, key=self.loads.__getitem__)
        self.loads[chosen] += WAITING
        return chosen

    def _hear(self, now_s: float, rank: int, counts: Counts) -> None:
        if counts == self.counts[rank]:
            return
        self._tell(now_s)
        if now_s > self.step_s:
            if self.changed:
                self.complete = list(self.counts)
            self.step_s = now_s
        self.counts[rank], self.changed = counts, True
        self._wait_from(now_s)

    def _tell(self, before_s: float) -> None:
        """The messages that were due by then."""
        while self.due_s < before_s:
            if self.complete is None:
                self.changed = False
            counts = self.complete or self.counts
            self.loads = [WAITING * waiting + running for waiting, running in counts]
            self.complete, self.told_s = None, self.due_s
            self._wait_from(self.told_s)

    def _wait_from(self, now_s: float) -> None:
        quiet_s = QUIET_S if self.complete is None else 0.0
        between_s = INTERVAL_S if self.changed else UNCHANGED_S
        self.due_s = max(now_s + quiet_s, self.told_s + between_s)
