"""What is late already, counted so that a run can be given up: exactly, since what is late stays late.

A replica's requests are passed in arrival order, once for each target, as soon as they are older than its
limit; whoever then still lacks what the limit is on counts. They are passed just before scheduling and
before tokens come out, so each late request is counted once and no other is.
"""

from __future__ import annotations

from servecast.simulator.engine.state import NONE, Simulation


def overdue(sim: Simulation, r: int, passed: int, at_s: float, limit_s: float) -> int:
    """The replica's next request after ``passed`` (NONE: the first), if it is older than the limit."""
    i = sim.replicas[r].first if passed < 0 else sim.requests[passed].next_in_replica
    return i if i >= 0 and at_s - sim.requests[i].arrival_s > limit_s else NONE


def count_late_queue(sim: Simulation, r: int) -> None:
    """Requests that are not scheduled before now although their queue delay is over."""
    replica, run = sim.replicas[r], sim.run[0]
    i = overdue(sim, r, replica.passed_queue, replica.seen_s, run.queue_delay_limit_s)
    while i >= 0:
        replica.passed_queue = i
        if sim.requests[i].scheduled_s != sim.requests[i].scheduled_s:  # NaN: still waits
            run.late_queue_delay += 1
        i = overdue(sim, r, i, replica.seen_s, run.queue_delay_limit_s)


def count_late_tokens(sim: Simulation, r: int, end_s: float) -> None:
    """Requests whose first (last) token is not out before ``end_s`` although its time is over."""
    replica, run = sim.replicas[r], sim.run[0]
    i = overdue(sim, r, replica.passed_ttft, end_s, run.ttft_limit_s)
    while i >= 0:
        replica.passed_ttft = i
        if sim.requests[i].first_token_s != sim.requests[i].first_token_s:
            run.late_ttft += 1
        i = overdue(sim, r, i, end_s, run.ttft_limit_s)
    i = overdue(sim, r, replica.passed_e2e, end_s, run.e2e_limit_s)
    while i >= 0:
        replica.passed_e2e = i
        if sim.requests[i].finish_s != sim.requests[i].finish_s:
            run.late_e2e += 1
        i = overdue(sim, r, i, end_s, run.e2e_limit_s)


def hopeless(sim: Simulation) -> bool:
    """More is late already than may be."""
    run = sim.run[0]
    return (
        run.late_queue_delay > run.max_late_queue_delay
        or run.late_ttft > run.max_late_ttft
        or run.late_e2e > run.max_late_e2e
        or run.late_gaps > run.max_late_gaps
    )
