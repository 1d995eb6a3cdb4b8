"""Requests to replicas: a rule that looks at them advances each to the arrival and then reads it."""

from __future__ import annotations

from servecast.simulator.engine import IDLE, INFINITY, advance
from servecast.simulator.state import NONE, Simulation


def assign(sim: Simulation, r: int, i: int) -> None:
    """Request i goes to replica r, behind those that it has."""
    replica, requests = sim.replicas[r], sim.requests
    requests[i].replica = r
    requests[i].next_in_replica = NONE
    if replica.last >= 0:
        requests[replica.last].next_in_replica = i
    else:
        replica.first = i
    if replica.next_arrival < 0:
        replica.next_arrival = i
    if replica.head < 0:
        replica.head = i
    replica.last = i
    replica.num_assigned += 1


def least_outstanding(sim: Simulation) -> int:
    """The replica with the fewest unfinished requests; the first of equals."""
    best = 0
    for r in range(1, len(sim.replicas)):
        load = sim.replicas[r].num_assigned - sim.replicas[r].num_finished
        if load < sim.replicas[best].num_assigned - sim.replicas[best].num_finished:
            best = r
    return best


def route(sim: Simulation) -> int:
    """Assign each request at its arrival, as the replicas stand then."""
    run = sim.run[0]
    while run.num_routed < run.num_requests:
        arrival_s = sim.requests[run.num_routed].arrival_s
        for r in range(len(sim.replicas)):
            code = advance(sim, r, arrival_s)
            if code != IDLE:
                return code
        assign(sim, least_outstanding(sim), run.num_routed)
        run.num_routed += 1
    return IDLE


def simulate_all(sim: Simulation) -> int:
    """Run all requests through all replicas; call again after FULL."""
    run = sim.run[0]
    if run.routed:
        code = route(sim)
        if code != IDLE:
            return code
    while run.num_routed < run.num_requests:
        assign(sim, run.num_routed % len(sim.replicas), run.num_routed)
        run.num_routed += 1
    for r in range(len(sim.replicas)):
        code = advance(sim, r, INFINITY)
        if code != IDLE:
            return code
    return IDLE
