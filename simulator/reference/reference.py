"""The engine's semantics as plain objects: the executable specification, and the oracle of its tests.

Slow and obvious on purpose. Every rule is stated in `engine.py`; nothing is shared with it but the inputs.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.hooks import columns_of
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.reference.blocks import (
    ReferenceRequest,
    prompt_hashes,
)
from servecast.simulator.reference.object_routing import ObjectRouter
from servecast.simulator.reference.replica import ReferenceReplica, ReferenceStep
from servecast.simulator.traffic.workload import Workload


class ReferenceRun:
    """A simulation, event by event: at each instant step ends, then arrivals, then batches."""

    def __init__(
        self,
        workload: Workload,
        fleet: Fleet,
        clients: tuple[int, float],
        loaded: NDArray[np.int64] | None,
    ) -> None:
        self.fleet = fleet
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
        self.router = self.make_router(workload, "round_robin" if concurrency else fleet.router)
        served = deque(self.served)
        self.arrivals = deque[ReferenceRequest]() if concurrency else served
        self.unsent = served if concurrency else deque[ReferenceRequest]()
        self.send(concurrency, 0.0)
        while (now_s := self.next_instant()) < float("inf"):
            self.at(now_s)

    def make_router(self, workload: Workload, rule: str) -> ObjectRouter:
        routing, count = parse_router(rule), self.fleet.replicas
        fits = np.array([request is not None for request in self.requests])
        choices = routing.choices(workload, fits, count)
        tokens = workload.prompt_tokens[fits].tolist()
        return ObjectRouter(routing, choices, tokens, count, self.fleet.limits.max_num_seqs)

    def next_instant(self) -> float:
        arrival_s = self.arrivals[0].arrival_s if self.arrivals else float("inf")
        return min(arrival_s, *(min(r.next_end_s(), r.due_s) for r in self.replicas))

    def at(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.next_end_s() == now_s:
                end_s = replica.flights[0].end_s
                finished = replica.complete()
                for request in finished:
                    self.router.finished(request.place, now_s)
                self.send(len(finished), end_s + self.client_s)
                busy = replica.ahead and replica.flights  # the host, until it has launched the last
                replica.due_s = max(now_s, replica.flights[-1].start_s) if busy else now_s
        self.assign(self.router.bind(), now_s)
        while self.arrivals and self.arrivals[0].arrival_s <= now_s:
            request = self.arrivals.popleft()
            self.assign(self.router.route(request.place, request.arrival_s), now_s)
        for replica in self.replicas:
            if replica.due_s <= now_s:
                replica.due_s = float("inf")
                while len(replica.flights) < replica.depth and replica.schedule(now_s):
                    self.steps.append(replica.flights[-1])

    def assign(self, sent: list[tuple[int, int]], now_s: float) -> None:
        """These requests are at these replicas now."""
        for place, number in sent:
            replica = self.replicas[number]
            self.served[place].replica = number
            if len(replica.waiting) < replica.max_queue:
                replica.waiting.append(self.served[place])
            else:
                self.served[place].gone = True
            if not (replica.ahead and replica.flights):  # formed ahead: it waits for the step
                replica.due_s = now_s

    def send(self, count: int, at_s: float) -> None:
        """Closed-loop clients send their next requests."""
        for _ in range(min(count, len(self.unsent))):
            self.unsent[0].arrival_s = at_s
            self.arrivals.append(self.unsent.popleft())


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
    capacity = fleet.limits.kv_blocks * fleet.limits.block_tokens
    there = np.zeros(len(workload), np.int64) if loaded is None else loaded
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens, keys, there)
    requests: list[ReferenceRequest | None] = []
    clients = workload.client if workload.client is not None else np.zeros(len(workload))
    for client, row in zip(clients, np.column_stack(columns), strict=True):
        prompt, output, key, have = (int(number) for number in row[1:])
        request = ReferenceRequest(float(row[0]), prompt, prompt + output, key, have)
        request.tokens, request.client = prompt, int(client)
        request.hashes = prompt_hashes(workload, len(requests), fleet.limits.block_tokens)
        requests.append(request if prompt + output - 1 <= capacity else None)
    return requests
