"""The rules of `dispatch.py` on plain objects: behind them run plain schedulers, and the tests' reference."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from servecast.simulator.engine.dispatch import (
    BETTER_OF_TWO,
    DEFERRED,
    REPORTED,
    STATIC,
    STICKY,
)
from servecast.simulator.engine.routers import Ints, Routing
from servecast.simulator.reference.coordinator import Coordinator


@dataclass(slots=True)
class Total:
    """A load that only grows: when, and how much it was from then on."""

    times_s: list[float] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)

    def add(self, at_s: float, load: int) -> None:
        self.times_s.append(at_s)
        self.sums.append(load + (self.sums[-1] if self.sums else 0))

    def upto(self, count: int) -> int:
        return self.sums[count - 1] if count else 0


@dataclass(slots=True)
class Sent:
    """What a router has sent to one replica, and heard back."""

    sent: Total = field(default_factory=Total)
    finished: Total = field(default_factory=Total)

    @property
    def outstanding(self) -> int:
        return len(self.sent.sums) - len(self.finished.sums)


class ObjectRouter:
    """Decides for one request after the other, in the order of arrival; a request is its place in that order.

    ``choices`` are those of the rule, ``tokens`` the prompts', ``most`` the requests that a replica runs.
    """

    def __init__(
        self, routing: Routing, choices: Ints, tokens: Sequence[int], replicas: int, most: int
    ) -> None:
        self.routing, self.rule = routing, routing.router.rule
        self.choices: list[list[int]] = choices.T.tolist()
        self.loads = tokens if routing.router.tokens else [1] * len(tokens)
        self.replicas = [Sent() for _ in range(replicas)]
        self.replica_of: dict[int, int] = {}
        self.live = list(range(replicas))  # take requests
        self.limit = int(routing.value("limit")) or most
        self.queue: deque[tuple[int, float]] = deque()
        self.coordinator = Coordinator(replicas, routing.value("message_s"))

    def route(self, place: int, arrival_s: float) -> list[tuple[int, int]]:
        """A request has arrived: who goes to which replica now."""
        if self.rule == DEFERRED:
            self.queue.append((place, arrival_s))
            return self.bind()
        self._send(place, arrival_s, self._choose(place, arrival_s))
        return [(place, self.replica_of[place])]

    def finished(self, place: int, now_s: float) -> None:
        self.replicas[self.replica_of[place]].finished.add(now_s, self.loads[place])

    def report(self, number: int, now_s: float, waiting: int, running: int) -> None:
        """What a rank counts after a step; other rules do not ask for it."""
        if self.rule == REPORTED:
            self.coordinator.report(number, now_s, (waiting, running))

    def bind(self) -> list[tuple[int, int]]:
        """Waiting requests to the replicas with the fewest, while those have fewer than they may."""
        bound: list[tuple[int, int]] = []
        while self.queue and min(self.replicas[n].outstanding for n in self.live) < self.limit:
            fewest = min(self.live, key=lambda n: self.replicas[n].outstanding)
            place, arrival_s = self.queue.popleft()
            self._send(place, arrival_s, fewest)
            bound.append((place, fewest))
        return bound

    def _send(self, place: int, arrival_s: float, replica: int) -> None:
        self.replicas[replica].sent.add(arrival_s, self.loads[place])
        self.replica_of[place] = replica

    def _choose(self, place: int, arrival_s: float) -> int:
        first, second = self.choices[place]
        if self.rule == STATIC:
            return first if first in self.live else self.live[first % len(self.live)]
        if self.rule == STICKY and self.replica_of.get(second) in self.live:
            return self.replica_of[second]
        if self.rule == REPORTED:
            return self.coordinator.choose(self.live, arrival_s)
        compared: Sequence[int] = self.live
        if self.rule == BETTER_OF_TWO:
            compared = [each for each in (first, second) if each in self.live] or self.live
        return min(compared, key=lambda n: self._known_load(self.replicas[n], arrival_s))

    def _known_load(self, replica: Sent, now_s: float) -> int:
        """Sent minus finished, as of the last refresh."""
        stale_s = self.routing.value("stale_s")
        seen_s = int(now_s / stale_s) * stale_s if stale_s > 0 else now_s
        own = stale_s == 0 or self.routing.value("own") > 0
        sent = len(replica.sent.sums) if own else bisect_left(replica.sent.times_s, seen_s)
        finished = bisect_right(replica.finished.times_s, seen_s)
        return replica.sent.upto(sent) - replica.finished.upto(finished)
