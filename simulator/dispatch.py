"""Requests to replicas: a rule that looks at them advances each to the arrival and then reads it."""

from __future__ import annotations

from servecast.simulator.engine import IDLE, advance
from servecast.simulator.state import INFINITY, Simulation
from servecast.simulator.waiting import assign, send_next


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


def send_all(sim: Simulation) -> None:
    """Requests whose replica does not depend on the run: all in turn, or each client's first."""
    run = sim.run[0]
    if run.concurrency == 0:
        while run.num_routed < run.num_requests:
            assign(sim, run.num_routed % len(sim.replicas), run.num_routed)
            run.num_routed += 1
    while run.num_routed < min(run.concurrency, run.num_requests):
        send_next(sim, 0, 0.0)


def simulate_all(sim: Simulation) -> int:
    """Run all requests through all replicas; call again after FULL."""
    if sim.run[0].routed:
        code = route(sim)
        if code != IDLE:
            return code
    else:
        send_all(sim)
    for r in range(len(sim.replicas)):
        code = advance(sim, r, INFINITY)
        if code != IDLE:
            return code
    return IDLE
