"""Requests sent to a replica, and those that wait: a heap by key, and arrivals in key order behind it."""

from __future__ import annotations

from servecast.simulator.engine.state import (
    BUDGET,
    GAVE_UP,
    INFINITY,
    NONE,
    PICK,
    TURNED_AWAY,
    Simulation,
)


def ask(sim: Simulation, door: int, first: int, count: int, now_s: float) -> int:
    """The place that the user's function names among ``count`` requests of the pool, or NONE: it failed, and
    the run ends."""
    place = call_hook(sim, door, first, count, now_s)
    if place < 0:
        sim.run[0].hook_failed = 1
    return place


def call_hook(sim: Simulation, door: int, first: int, count: int, now_s: float) -> int:
    """Asks as plain Python does; `compiled.py` has its own."""
    place: int = sim.hooks[door](first, count, now_s)
    return place


def call_budget(sim: Simulation, decodes: int, cached: int, waiting: int, now_s: float) -> int:
    """The same, for the one door that names tokens."""
    tokens: int = sim.hooks[BUDGET](decodes, cached, waiting, now_s)
    return tokens


def push(sim: Simulation, r: int, i: int) -> None:
    """Add request i to the heap, smallest key on top. Where a function picks there is no order."""
    replica, heap, requests = sim.replicas[r], sim.pool, sim.requests
    top = sim.run[0].waiting_at + r * sim.run[0].max_waiting
    n = replica.num_waiting
    if sim.run[0].prompts_first:
        requests[i].key = replica.next_key
        replica.next_key += 1
    if sim.run[0].picking:
        heap[top + n] = i
        replica.num_waiting += 1
        replica.chosen = NONE
        return
    while n > 0 and requests[heap[top + ((n - 1) >> 1)]].key > requests[i].key:
        heap[top + n] = heap[top + ((n - 1) >> 1)]
        n = (n - 1) >> 1
    heap[top + n] = i
    replica.num_waiting += 1


def pop(sim: Simulation, r: int) -> None:
    """Remove the smallest key from the heap."""
    replica, heap, requests = sim.replicas[r], sim.pool, sim.requests
    top = sim.run[0].waiting_at + r * sim.run[0].max_waiting
    replica.num_waiting -= 1
    n = replica.num_waiting
    i = heap[top + n]
    k = 0
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if child + 1 < n:
            left, right = heap[top + child], heap[top + child + 1]
            if requests[right].key < requests[left].key:
                child += 1
        if requests[heap[top + child]].key > requests[i].key:
            break
        heap[top + k] = heap[top + child]
        k = child
    heap[top + k] = i


def front(sim: Simulation, r: int) -> int:
    """The waiting request with the smallest key, or NONE. In key order fresh arrivals need no heap: it
    holds only the preempted, whose keys are all smaller."""
    replica = sim.replicas[r]
    if sim.run[0].picking and replica.num_waiting > 1:
        first = sim.run[0].waiting_at + r * sim.run[0].max_waiting
        if replica.chosen < 0:
            replica.chosen = ask(sim, PICK, first, replica.num_waiting, replica.seen_s)
        if replica.chosen < 0:
            return NONE
        return sim.pool[first + replica.chosen]
    if replica.num_waiting > 0:
        return sim.pool[sim.run[0].waiting_at + r * sim.run[0].max_waiting]
    return replica.head if replica.num_fresh > 0 else NONE


def enqueue_arrivals(sim: Simulation, r: int) -> None:
    """Let the requests wait that have arrived when the next batch is formed."""
    replica, requests, run = sim.replicas[r], sim.requests, sim.run[0]
    i = replica.next_arrival
    while i >= 0 and requests[i].arrival_s <= replica.seen_s:
        replica.next_arrival = requests[i].next_in_replica
        if run.losing and replica.num_waiting + replica.num_fresh >= run.max_queue:
            lose(sim, r, i, TURNED_AWAY)
        elif run.ordered:
            if replica.num_fresh == 0:
                replica.head = i  # behind those that were turned away
            replica.num_fresh += 1
        else:
            push(sim, r, i)
        i = replica.next_arrival


def leave_queue(sim: Simulation, r: int) -> None:
    """Remove the front."""
    replica = sim.replicas[r]
    if sim.run[0].picking:
        first = sim.run[0].waiting_at + r * sim.run[0].max_waiting
        replica.num_waiting -= 1
        sim.pool[first + max(replica.chosen, 0)] = sim.pool[first + replica.num_waiting]
        replica.chosen = NONE
    elif replica.num_waiting > 0:
        pop(sim, r)
    else:
        replica.num_fresh -= 1
        replica.head = sim.requests[replica.head].next_in_replica
        while replica.num_fresh > 0 and sim.requests[replica.head].gone:
            replica.head = sim.requests[replica.head].next_in_replica


def lose(sim: Simulation, r: int, i: int, why: int) -> None:
    """Request i, which has left the queue or never was in it, will not be served."""
    sim.requests[i].gone = why
    sim.replicas[r].num_finished += 1
    sim.replicas[r].tokens_finished += sim.requests[i].tokens


def patient_until_s(sim: Simulation, i: int) -> float:
    """When waiting request i gives up; once it was served, never."""
    request = sim.requests[i]
    if request.scheduled_s == request.scheduled_s:  # not NaN
        return INFINITY
    return request.arrival_s + sim.run[0].queue_timeout_s


def lose_impatient(sim: Simulation, r: int) -> None:
    """Those at the front whose clients have gone leave the queue."""
    i = front(sim, r)
    while i >= 0 and sim.replicas[r].seen_s > patient_until_s(sim, i):
        leave_queue(sim, r)
        lose(sim, r, i, GAVE_UP)
        i = front(sim, r)


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
    replica.tokens_assigned += requests[i].tokens


def send_next(sim: Simulation, r: int, at_s: float) -> None:
    """A closed-loop client sends the next request, if there is one left, to replica r."""
    run = sim.run[0]
    if run.num_routed < run.num_requests:
        sim.requests[run.num_routed].arrival_s = at_s
        assign(sim, r, run.num_routed)
        run.num_routed += 1
