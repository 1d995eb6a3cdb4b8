"""Which replicas of the specification take requests, as nodes are lost and come back and fleets grow.

A request that finds no replica waits for the first that comes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from servecast.simulator.engine.lifecycle import Autoscaling, NodeLoss
from servecast.simulator.engine.patience import LOST
from servecast.simulator.reference.blocks import ReferenceRequest

if TYPE_CHECKING:
    from servecast.simulator.reference.reference import ReferenceRun


class Membership:
    def __init__(self, run: ReferenceRun) -> None:
        self.run, self.router, self.modes = run, run.router, run.modes
        self.held: list[tuple[int, float]] = []  # places of requests, and when they came
        self.down: set[int] = set()
        self.coming: set[int] = set()  # asked for, not there yet
        self.draining: set[int] = set()
        self.paid_from_s = dict.fromkeys(range(len(run.replicas)), 0.0)
        self.paid_s, self.retried, self.lost = 0.0, 0, 0
        self.sizes: list[tuple[float, int]] = []  # when how many replicas took requests
        self.looked: list[tuple[float, int]] = []  # when how many were wanted
        for loss in self.modes.losses:
            run.later(loss.at_s, partial(self.lose, loss))
        if self.modes.scaling:
            self.router.live = list(range(self.modes.scaling.least))
            self.paid_from_s = dict.fromkeys(self.router.live, 0.0)
            run.later(0.0, partial(self.look, self.modes.scaling))
        self.note(0.0)

    def note(self, now_s: float) -> None:
        self.sizes.append((now_s, len(self.router.live)))

    def take(self, place: int, arrival_s: float, now_s: float) -> None:
        """The request goes to a replica, or waits for one."""
        if self.router.live:
            self.run.assign(self.router.route(place, arrival_s), now_s)
        else:
            self.held.append((place, arrival_s))

    def settle(self, now_s: float) -> None:
        """Requests that waited centrally go where there is a place; who has drained is given back."""
        if self.router.live:
            held, self.held = self.held, []
            for place, _ in held:
                self.run.assign(self.router.route(place, now_s), now_s)
            self.run.assign(self.router.bind(), now_s)
        for number in sorted(self.draining):
            replica = self.run.replicas[number]
            if not replica.running and not replica.waiting and not replica.flights:
                self.draining.remove(number)
                self.paid_s += now_s - self.paid_from_s.pop(number)

    def drop(self, request: ReferenceRequest, now_s: float) -> None:
        """Its client has left: it is at a replica, or waits for one."""
        waits = [place for place, _ in self.held] + [place for place, _ in self.router.queue]
        if request.place in waits:
            self.held = [each for each in self.held if each[0] != request.place]
            for each in [e for e in self.router.queue if e[0] == request.place]:
                self.router.queue.remove(each)
            return
        self.run.replicas[request.replica].drop(request)
        self.run.replicas[request.replica].wake(now_s)

    def lose(self, loss: NodeLoss, now_s: float) -> None:
        """The node is gone; what it had is sent to others, or is lost."""
        number = loss.replica
        self.down.add(number)
        self.run.later(now_s + loss.down_s, partial(self.restart, number))
        if number in self.router.live:
            self.router.live.remove(number)
            self.note(now_s)
        for request in sorted(self.run.replicas[number].lose(now_s), key=lambda r: r.key):
            if self.modes.retry:
                self.router.finished(request.place, now_s)
                del self.router.replica_of[request.place]
                request.retries += 1
                self.retried += 1
                self.take(request.place, now_s, now_s)
            else:
                request.why = LOST
                self.lost += 1
                self.run.ended(request, now_s, now_s)

    def restart(self, number: int, now_s: float) -> None:
        self.down.remove(number)
        if number in self.paid_from_s and number not in self.draining:
            self.up(number, now_s)

    def up(self, number: int, now_s: float) -> None:
        """The replica takes requests from now on."""
        self.coming.discard(number)
        if number not in self.down:
            self.router.live = sorted({*self.router.live, number})
            self.note(now_s)

    def look(self, scaling: Autoscaling, now_s: float) -> None:
        """As many replicas as the requests that are out need."""
        run = self.run
        if run.open == 0:
            return
        wanted = scaling.wanted(run.out)
        self.looked.append((now_s, wanted))
        self.looked = [each for each in self.looked if each[0] >= now_s - scaling.hold_s]
        have = len(self.router.live) + len(self.coming)
        for number in self.unused()[: max(wanted - have, 0)]:
            self.coming.add(number)
            self.paid_from_s[number] = now_s
            run.later(now_s + scaling.provision_s, partial(self.up, number))
        if not self.coming:
            enough = max(wanted for _, wanted in self.looked)
            for number in self.router.live[enough:]:
                self.router.live = [each for each in self.router.live if each != number]
                self.draining.add(number)
                self.note(now_s)
        run.later(now_s + scaling.interval_s, partial(self.look, scaling))

    def unused(self) -> list[int]:
        """Replicas that could be asked for."""
        return [n for n in range(len(self.run.replicas)) if n not in self.paid_from_s]

    def report(self) -> dict[str, Any]:
        end_s = max((step.end_s for step in self.run.steps), default=0.0)
        report: dict[str, Any] = {}
        if self.modes.losses:
            report["losses"] = {"retried": self.retried, "lost": self.lost}
        if self.modes.scaling:
            open_s = sum(max(end_s - from_s, 0.0) for from_s in self.paid_from_s.values())
            report["scaling"] = {
                "replica_hours": (self.paid_s + open_s) / 3600,
                "most": max(size for _, size in self.sizes),
                "sizes": [{"at_s": at_s, "replicas": size} for at_s, size in self.sizes],
            }
        return report
