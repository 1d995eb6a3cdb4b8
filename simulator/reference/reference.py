"""The engine's semantics as plain objects: the executable specification, and the oracle of its tests.

Slow and obvious on purpose. Every rule is stated in `engine.py`; nothing is shared with it but the inputs.
The modes of `modes.py` are stated here alone, and run here (`specified_run.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.hooks import columns_of
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.scheduling import LivelockError
from servecast.simulator.engine.state import TURNED_AWAY
from servecast.simulator.reference.blocks import (
    ReferenceRequest,
    prompt_hashes,
)
from servecast.simulator.reference.object_routing import ObjectRouter
from servecast.simulator.reference.replica import ReferenceReplica, ReferenceStep
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
        caching = loaded is None and fleet.limits.caches_prefixes_of(workload.prefix is not None)
        self.replicas = [ReferenceReplica(n, fleet, caching) for n in range(fleet.replicas)]
        self.requests = _requests(workload, fleet, loaded)  # None: rejected
        self.steps: list[ReferenceStep] = []
        self.served = [r for r in self.requests if r is not None]
        for place, request in enumerate(self.served):
            request.place = place
        pick = parse_policy(fleet.policy).pick
        for replica in self.replicas:
            replica.pick, replica.columns = pick, columns_of(self.served)
        self.router = self.make_router(
            workload, "round_robin" if concurrency and fleet.replicas == 1 else fleet.router
        )
        self.unsent = 0  # place of the next request that a closed-loop client sends
        self.arrivals: list[tuple[float, int]] = []  # a heap: when, and the request's place
        self.events: list[tuple[float, int, Callable[[float], None]]] = []  # a heap
        self.ticket = count()
        if concurrency:
            self.send(concurrency, 0.0)
        else:
            self.unsent = len(self.served)
            self.arrivals = [(r.arrival_s, r.place) for r in self.served]
        while (now_s := self.next_instant()) < inf:
            self.at(now_s)
        self.check_end(workload.name)

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
                    self.router.finished(request.place, now_s)
                    self.answered(end_s)
                busy = replica.ahead and replica.flights  # the host, until it has launched the last
                replica.due_s = max(now_s, replica.flights[-1].start_s) if busy else now_s
        while self.events and self.events[0][0] <= now_s:
            heappop(self.events)[2](now_s)
        self.assign(self.router.bind(), now_s)
        while self.arrivals and self.arrivals[0][0] <= now_s:
            arrival_s, place = heappop(self.arrivals)
            self.assign(self.router.route(place, arrival_s), now_s)
        self.launch(now_s)

    def launch(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.due_s <= now_s:
                replica.due_s = inf
                while len(replica.flights) < replica.depth and replica.schedule(now_s):
                    self.steps.append(replica.flights[-1])
                if replica.stalled > MAX_STALLED:
                    raise LivelockError(
                        f"replica {replica.number}: no token in {MAX_STALLED} batches"
                    )

    def assign(self, sent: list[tuple[int, int]], now_s: float) -> None:
        """These requests are at these replicas now."""
        for place, number in sent:
            replica = self.replicas[number]
            self.served[place].replica = number
            if len(replica.waiting) < replica.max_queue:
                replica.waiting.append(self.served[place])
            else:
                self.served[place].why = TURNED_AWAY
            replica.wake(now_s)

    def answered(self, end_s: float) -> None:
        """A request has its last token."""
        self.send(1, end_s + self.client_s)

    def send(self, number: int, at_s: float) -> None:
        """Closed-loop clients send their next requests."""
        for _ in range(min(number, len(self.served) - self.unsent)):
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
        return report

    def check_end(self, name: str) -> None:
        """
        Raises:
            LivelockError: a request waits for ever.
        """
        for request in self.served:
            if request.known < request.total and not request.gone:
                raise LivelockError(f"{name}: request {request.place} waits for ever")


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
    capacity -= speculation.extra_tokens if speculation else 0
    there = np.zeros(len(workload), np.int64) if loaded is None else loaded
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens, keys, there)
    requests: list[ReferenceRequest | None] = []
    clients = workload.client if workload.client is not None else np.zeros(len(workload))
    for client, row in zip(clients, np.column_stack(columns), strict=True):
        prompt, output, key, have = (int(number) for number in row[1:])
        request = ReferenceRequest(float(row[0]), prompt, prompt + output, key, have)
        request.tokens, request.client = prompt, int(client)
        request.hashes = prompt_hashes(workload, len(requests), fleet.limits.block_tokens)
        request.drafts = speculation.drafts(len(requests)) if speculation else None
        requests.append(request if prompt + output - 1 <= capacity else None)
    return requests
