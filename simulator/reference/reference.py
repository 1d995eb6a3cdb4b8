"""The engine's semantics as plain objects: the executable specification, and the oracle of its tests.

Slow and obvious on purpose. Every rule is stated in `engine.py`; nothing is shared with it but the inputs.
The modes of `modes.py` are stated here alone, and run here (`specified_run.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.patience import LEFT, SESSION_ENDED
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.scheduling import LivelockError
from servecast.simulator.engine.state import TURNED_AWAY
from servecast.simulator.reference.blocks import (
    ReferenceRequest,
    prompt_hashes,
)
from servecast.simulator.reference.decisions import Decisions
from servecast.simulator.reference.membership import Membership
from servecast.simulator.reference.object_routing import ObjectRouter
from servecast.simulator.reference.reference_step import ReferenceStep
from servecast.simulator.reference.replica import ReferenceReplica
from servecast.simulator.reference.sessions import Sessions
from servecast.simulator.reference.stage_times import common_end_s
from servecast.simulator.reference.tiers import tiers_report
from servecast.simulator.traffic.workload import Workload

if TYPE_CHECKING:
    from servecast.simulator.engine.routing import Fleet

MAX_STALLED = 20_000
"""Steps of a replica without a token; the longest prefill there is takes far fewer."""


class ReferenceRun:
    """A simulation, event by event: at each instant step ends, then arrivals, then batches."""

    def __init__(
        self,
        workload: Workload,
        fleet: Fleet,
        clients: tuple[int, float] = (0, 0.0),
        loaded: NDArray[np.int64] | None = None,
    ) -> None:
        self.fleet, self.modes = fleet, fleet.modes
        concurrency, self.client_s = clients
        shared = workload.prefix is not None or self.modes.turns is not None
        caching = loaded is None and fleet.limits.caches_prefixes_of(shared)
        self.requests = _requests(workload, fleet, loaded)  # None: rejected
        self.steps: list[ReferenceStep] = []
        self.served = [r for r in self.requests if r is not None]
        for place, request in enumerate(self.served):
            request.place = place
        decisions = Decisions(parse_policy(fleet.policy), self.served)
        numbers = range(fleet.replicas)
        self.replicas = [ReferenceReplica(n, fleet, caching, decisions) for n in numbers]
        self.router = self.make_router(
            workload, "round_robin" if concurrency and fleet.replicas == 1 else fleet.router
        )
        self.unsent = 0  # place of the next request that a closed-loop client sends
        self.arrivals: list[tuple[float, int]] = []  # a heap: when, and the request's place
        self.events: list[tuple[float, int, Callable[[float], None]]] = []  # a heap
        self.ticket = count()
        self.open = len(self.served)  # requests that are not answered, and will be
        self.num_arrived, self.out, self.num_dummies = 0, 0, 0
        self.turns = self.sessions(workload)
        self.leaves_s = self.modes.leaving.after_s(len(self.served)) if self.modes.leaving else None
        self.membership = Membership(self)
        self.start(concurrency)
        while (now_s := self.next_instant()) < inf:
            self.at(now_s)
        self.check_end(workload.name)

    def start(self, concurrency: int) -> None:
        """The first requests are on their way."""
        if concurrency:
            for client in range(min(concurrency, len(self.served))):
                self.send_next(self.modes.ramp_s * client / concurrency)
            return
        self.unsent = len(self.served)
        first = [r for r in self.served if not self.turns or self.turns.is_first(r.place)]
        self.arrivals = [(r.arrival_s, r.place) for r in first]

    def sessions(self, workload: Workload) -> Sessions | None:
        turns = self.modes.turns
        tokens = self.fleet.limits.block_tokens
        return Sessions(workload, self.requests, turns, tokens) if turns else None

    def make_router(self, workload: Workload, rule: str) -> ObjectRouter:
        routing, count = parse_router(rule), self.fleet.replicas
        fits = np.array([request is not None for request in self.requests])
        choices = routing.choices(workload, fits, count)
        tokens = workload.prompt_tokens[fits].tolist()
        return ObjectRouter(routing, choices, tokens, count, self.fleet.limits.max_num_seqs)

    def next_instant(self) -> float:
        arrival_s = self.arrivals[0][0] if self.arrivals else inf
        event_s = self.events[0][0] if self.events else inf
        return min(arrival_s, event_s, *(min(r.next_end_s(), r.due_s) for r in self.replicas))

    def at(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.next_end_s() == now_s:
                end_s = replica.flights[0].end_s
                for request in replica.complete():
                    self.ended(request, end_s, now_s)
                self.router.report(replica.number, now_s, replica.left_out, len(replica.running))
                busy = replica.ahead and replica.flights  # the host, until it has launched the last
                replica.due_s = max(now_s, replica.flights[-1].start_s) if busy else now_s
        while self.events and self.events[0][0] <= now_s:
            heappop(self.events)[2](now_s)
        self.membership.settle(now_s)
        while self.arrivals and self.arrivals[0][0] <= now_s:
            arrival_s, place = heappop(self.arrivals)
            self.arrive(self.served[place], arrival_s, now_s)
        self.launch(now_s)

    def arrive(self, request: ReferenceRequest, arrival_s: float, now_s: float) -> None:
        if self.turns:
            request.key = self.num_arrived  # who comes when is not known before
        self.num_arrived += 1
        self.out += 1
        if self.leaves_s is not None and self.leaves_s[request.place] < inf:
            self.later(
                arrival_s + float(self.leaves_s[request.place]), partial(self.leave, request)
            )
        self.membership.take(request.place, arrival_s, now_s)

    def leave(self, request: ReferenceRequest, now_s: float) -> None:
        """The client does not wait any longer."""
        if request.known == request.total or request.gone:
            return
        request.why = LEFT
        self.membership.drop(request, now_s)
        self.ended(request, now_s, now_s)

    def launch(self, now_s: float) -> None:
        ranks = self.modes.lock_step
        for first in range(0, len(self.replicas), ranks):
            group = self.replicas[first : first + ranks]
            if min(replica.due_s for replica in group) <= now_s:
                for replica in group:
                    replica.due_s = inf
                if ranks > 1:
                    self.form_together(group, now_s)
                else:
                    self.form(group[0], now_s)
                for replica in group:
                    self.after_forming(replica, now_s)

    def form(self, replica: ReferenceReplica, now_s: float) -> None:
        while len(replica.flights) < replica.depth and replica.schedule(now_s):
            self.steps.append(replica.flights[-1])

    def form_together(self, group: list[ReferenceReplica], now_s: float) -> None:
        """One batch of each rank, all ending together; who has none runs a batch of one token."""
        while len(group[0].flights) < group[0].depth:
            formed = [replica for replica in group if replica.schedule(now_s)]
            if not formed:
                return
            idle = [replica for replica in group if replica not in formed]
            for replica in idle:
                replica.run_along(now_s)
            steps = [(replica.flights[-1].end_s, replica.flights[-1].tokens) for replica in group]
            end_s = common_end_s(self.fleet.tables, steps)
            for replica in group:
                replica.flights[-1].end_s = replica.stage_free_s[0] = end_s
            self.num_dummies += len(idle)
            self.steps += [replica.flights[-1] for replica in formed]

    def after_forming(self, replica: ReferenceReplica, now_s: float) -> None:
        for request in replica.left_queue:
            self.ended(request, now_s, now_s)
        replica.left_queue.clear()
        replica.left_out = len(replica.waiting)
        if replica.stalled > MAX_STALLED:
            raise LivelockError(f"replica {replica.number}: no token in {MAX_STALLED} batches")

    def assign(self, sent: list[tuple[int, int]], now_s: float) -> None:
        """These requests are at these replicas now."""
        for place, number in sent:
            replica, request = self.replicas[number], self.served[place]
            request.replica = number
            if len(replica.waiting) < self.places(replica, request):
                replica.waiting.append(request)
            else:
                request.why = TURNED_AWAY
                self.ended(request, now_s, now_s)
            replica.wake(now_s)

    def places(self, replica: ReferenceReplica, request: ReferenceRequest) -> float:
        """As many may wait when it comes."""
        by_class = self.modes.class_queues
        if not by_class or request.retries:
            return replica.max_queue
        return min(by_class[min(request.priority, len(by_class) - 1)], replica.max_queue)

    def ended(self, request: ReferenceRequest, end_s: float, now_s: float) -> None:
        """A request has its last token, or will get none."""
        self.open -= 1
        self.out -= 1
        if request.place in self.router.replica_of:
            self.router.finished(request.place, now_s)
        if self.unsent < len(self.served):
            self.send_next(end_s + self.client_s)
        if self.turns is None:
            return
        following = self.turns.following(request.place)
        if request.gone:
            self.end_session(request.place)
        elif following is not None:
            self.served[following].arrival_s = end_s + self.turns.think_s(following)
            heappush(self.arrivals, (self.served[following].arrival_s, following))

    def end_session(self, place: int) -> None:
        """No turn after this one comes."""
        assert self.turns is not None
        while (following := self.turns.following(place)) is not None:
            self.served[following].why = SESSION_ENDED
            self.open -= 1
            place = following

    def send_next(self, at_s: float) -> None:
        """A closed-loop client sends the next request."""
        self.served[self.unsent].arrival_s = at_s
        heappush(self.arrivals, (at_s, self.unsent))
        self.unsent += 1

    def later(self, at_s: float, event: Callable[[float], None]) -> None:
        """The event happens then, after what ends and before what arrives in that instant."""
        heappush(self.events, (at_s, next(self.ticket), event))

    def report(self) -> dict[str, Any]:
        """What the modes did, for the summary."""
        report: dict[str, Any] = {}
        if self.modes.speculation:
            steps = sum(step.decodes for step in self.steps)
            tokens = sum(max(len(r.token_s) - 1, 0) for r in self.served)
            report["speculation"] = {
                "checks": steps,
                "tokens_per_check": tokens / steps if steps else None,
            }
        if self.modes.lock_step > 1:
            report["lock_step"] = {"dummy_batches": self.num_dummies}
        if self.modes.tiers:
            below = [replica.blocks.below for replica in self.replicas]
            report["tiers"] = tiers_report(below, self.fleet.limits.block_tokens)
        return report | self.membership.report()

    def check_end(self, name: str) -> None:
        """
        Raises:
            LivelockError: a request waits for ever.
        """
        for request in self.served:
            if request.known < request.total and not request.gone:
                raise LivelockError(f"{name}: request {request.place} waits for ever")
        for replica in self.replicas:
            if len(replica.blocks.free) != replica.blocks.total:
                raise AssertionError(f"{name}: replica {replica.number} has lost KV blocks")


def simulate_reference(
    workload: Workload,
    fleet: Fleet,
    concurrency: int = 0,
    client_s: float = 0.0,
    loaded_tokens: NDArray[np.int64] | None = None,
) -> ReferenceRun:
    """What `routing.Engine.run` computes; concurrency 0: requests arrive by themselves."""
    return ReferenceRun(workload, fleet, (concurrency, client_s), loaded_tokens)


def _requests(
    workload: Workload, fleet: Fleet, loaded: NDArray[np.int64] | None
) -> list[ReferenceRequest | None]:
    keys = parse_policy(fleet.policy).keys(workload)
    speculation = fleet.modes.speculation
    capacity = fleet.limits.kv_blocks * fleet.limits.block_tokens
    if speculation:  # one batch's drafts, or two's
        capacity -= speculation.extra_tokens
        capacity -= speculation.longest if fleet.limits.async_scheduling else 0
    there = np.zeros(len(workload), np.int64) if loaded is None else loaded
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens, keys, there)
    requests: list[ReferenceRequest | None] = []
    clients = workload.client if workload.client is not None else np.zeros(len(workload))
    for client, row in zip(clients, np.column_stack(columns), strict=True):
        prompt, output, key, have = (int(number) for number in row[1:])
        request = ReferenceRequest(float(row[0]), prompt, prompt + output, key, have)
        request.tokens, request.client = prompt, int(client)
        if workload.priority is not None:
            request.priority = int(workload.priority[len(requests)])
        request.hashes = prompt_hashes(workload, len(requests), fleet.limits.block_tokens)
        request.drafts = speculation.drafts(len(requests)) if speculation else None
        requests.append(request if prompt + output - 1 <= capacity else None)
    return requests
