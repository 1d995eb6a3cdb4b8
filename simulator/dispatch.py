"""Requests to replicas: a rule that looks at them advances each to the arrival and then reads it."""

from __future__ import annotations

from servecast.simulator.engine import IDLE, advance
from servecast.simulator.state import INFINITY, Simulation
from servecast.simulator.waiting import assign, send_next

STATIC, LEAST_OUTSTANDING, BETTER_OF_TWO = range(
    3
)  # rules: known beforehand, or read from the replicas


def outstanding(sim: Simulation, r: int) -> int:
    """Requests that the replica was sent and has not finished."""
    return sim.replicas[r].num_assigned - sim.replicas[r].num_finished


def choose(sim: Simulation, i: int) -> int:
    """The replica for request i by the run's rule, as the replicas stand; the first of equals."""
    best = sim.requests[i].replica
    if sim.run[0].router == BETTER_OF_TWO:
        other = sim.requests[i].second_choice
        return other if outstanding(sim, other) < outstanding(sim, best) else best
    best = 0
    for r in range(1, len(sim.replicas)):
        if outstanding(sim, r) < outstanding(sim, best):
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
        assign(sim, choose(sim, run.num_routed), run.num_routed)
        run.num_routed += 1
    return IDLE


def send_all(sim: Simulation) -> None:
    """Requests whose replica does not depend on the run: all in turn, or each client's first."""
    run = sim.run[0]
    if run.concurrency == 0:
        while run.num_routed < run.num_requests:
            assign(sim, sim.requests[run.num_routed].replica, run.num_routed)
            run.num_routed += 1
    while run.num_routed < min(run.concurrency, run.num_requests):
        send_next(sim, 0, 0.0)


def simulate_all(sim: Simulation) -> int:
    """Run all requests through all replicas; call again after FULL."""
    if sim.run[0].router != STATIC and sim.run[0].concurrency == 0:
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
