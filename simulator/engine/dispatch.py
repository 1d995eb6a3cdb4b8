"""Requests to replicas: a rule that looks at them advances each to what it knows of them, and then reads it.

* `STATIC`: known beforehand.
* `LEAST_LOADED`, `BETTER_OF_TWO`: the smallest load, the first of equals. A load is requests or prompt
  tokens, sent and not finished; with ``stale_s`` finishes (and, unless ``own`` is counted, sends) count up
  to the last multiple of it only.
* `STICKY`: where the session's request before went; its first by the smallest load.
* `DEFERRED`: one queue; its first request goes, as soon as a replica has fewer than ``limit``, to the one
  with the fewest. Of one instant, finishes come first.
* `REPORTED`: the smallest load by what ranks in lock step reported last: the specification alone knows it
  (`object_routing.py`).
"""

from __future__ import annotations

from servecast.simulator.engine.engine import FINISHED, IDLE, PAUSED, advance
from servecast.simulator.engine.state import INFINITY, NONE, Simulation
from servecast.simulator.engine.waiting import assign, send_next

STATIC, LEAST_LOADED, BETTER_OF_TWO, STICKY, DEFERRED, REPORTED = range(6)


def outstanding(sim: Simulation, r: int) -> int:
    """Requests that the replica was sent and has not finished."""
    return sim.replicas[r].num_assigned - sim.replicas[r].num_finished


def load(sim: Simulation, r: int) -> int:
    """What the router knows of the replica's load."""
    replica, run = sim.replicas[r], sim.run[0]
    if run.stale_s > 0.0 and run.own == 0:
        return replica.known_sent - replica.known_finished
    sent = replica.tokens_assigned if run.by_tokens else replica.num_assigned
    if run.stale_s > 0.0:
        return sent - replica.known_finished
    return sent - (replica.tokens_finished if run.by_tokens else replica.num_finished)


def choose(sim: Simulation, i: int) -> int:
    """The replica for request i by the run's rule; the first of equals."""
    run, request = sim.run[0], sim.requests[i]
    best = request.replica
    if run.router == BETTER_OF_TWO:
        other = request.second_choice
        return other if load(sim, other) < load(sim, best) else best
    if run.router == STICKY and request.second_choice >= 0:
        return sim.requests[request.second_choice].replica
    best = 0
    for r in range(1, len(sim.replicas)):
        if load(sim, r) < load(sim, best):
            best = r
    return best


def send_all(sim: Simulation) -> None:
    """Requests whose replica does not depend on the run: all in turn, or each client's first."""
    run = sim.run[0]
    if run.concurrency == 0:
        while run.num_routed < run.num_requests:
            assign(sim, sim.requests[run.num_routed].replica, run.num_routed)
            run.num_routed += 1
    while run.num_routed < min(run.concurrency, run.num_requests):
        send_next(sim, 0, 0.0)


def horizon(sim: Simulation) -> float:
    """How far the replicas may run before the next request is sent; less than 0: not at all."""
    run = sim.run[0]
    if run.router == STATIC or run.concurrency > 0 or run.num_routed == run.num_requests:
        run.stop_at_finish = 0
        return run.pause_s if run.router == STATIC else INFINITY
    arrival_s = sim.requests[run.num_routed].arrival_s
    if run.router == DEFERRED:
        run.bound_s = max(run.bound_s, arrival_s)
        return INFINITY if run.stop_at_finish else run.bound_s
    if run.stale_s == 0.0:
        return arrival_s
    seen_s = int(arrival_s / run.stale_s) * run.stale_s
    return seen_s if seen_s > run.refreshed_s else -1.0


def send_one(sim: Simulation, until_s: float) -> None:
    """Send the next request, now that all replicas have run to the horizon."""
    run = sim.run[0]
    if run.stale_s > 0.0 and until_s >= 0.0:
        refresh(sim, until_s)
    assign(sim, choose(sim, run.num_routed), run.num_routed)
    run.num_routed += 1


def refresh(sim: Simulation, seen_s: float) -> None:
    """Bring what the router knows of the replicas up to date."""
    run = sim.run[0]
    run.refreshed_s = seen_s
    for r in range(len(sim.replicas)):
        replica = sim.replicas[r]
        replica.known_sent = replica.tokens_assigned if run.by_tokens else replica.num_assigned
        replica.known_finished = replica.tokens_finished if run.by_tokens else replica.num_finished


def first_place(sim: Simulation) -> int:
    """The replica with a place for another and the fewest requests, or NONE."""
    best, run = NONE, sim.run[0]
    for r in range(len(sim.replicas)):
        if sim.replicas[r].stopped_s > run.bound_s or outstanding(sim, r) >= run.limit:
            continue  # full, or full until a finish that is still to come
        if best < 0 or outstanding(sim, r) < outstanding(sim, best):
            best = r
    return best


def bind_one(sim: Simulation) -> None:
    """Send the first of the queue to a place. If there is none, the replicas run on to their next finishes;
    having done so, the queue goes on at the first of these."""
    run = sim.run[0]
    if run.stop_at_finish:
        run.stop_at_finish = 0
        run.bound_s = INFINITY
        for r in range(len(sim.replicas)):
            run.bound_s = min(run.bound_s, sim.replicas[r].stopped_s)
        return
    best = first_place(sim)
    if best < 0:
        run.stop_at_finish = 1
        return
    assign(sim, best, run.num_routed)
    run.num_routed += 1


def simulate_all(sim: Simulation) -> int:
    """Run all requests through all replicas; call again after FULL, and with the next ones after PAUSED."""
    run = sim.run[0]
    if run.router == STATIC or run.concurrency > 0:
        send_all(sim)
    while True:
        waits = run.num_routed == run.num_requests and run.pause_s < INFINITY
        if waits and run.router != STATIC:
            return PAUSED
        until_s = horizon(sim)
        for r in range(len(sim.replicas)):
            if until_s < 0.0 or (run.stop_at_finish and sim.replicas[r].stopped_s > run.bound_s):
                continue
            code = advance(sim, r, until_s)
            if code == FINISHED:
                sim.replicas[r].stopped_s = sim.replicas[r].now_s
            elif code != IDLE or run.stop_at_finish:  # a full replica finishes, or is stuck
                return code
        if waits or (until_s == INFINITY and run.stop_at_finish == 0):
            return PAUSED if waits else IDLE
        if run.router == DEFERRED:
            bind_one(sim)
        else:
            send_one(sim, until_s)
