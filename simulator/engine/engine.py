"""The exact aggregated engine: continuous batching, chunked prefill, paged KV, preempt-and-recompute.

Semantics: vLLM v1 (vllm/v1/core/sched/scheduler.py). `reference.py` says the same in plain objects and is
the oracle: every time, width and preemption is equal to the last bit.

* At one instant step ends come first, then arrivals, then a batch is formed.
* A batch: (1) every decode that is not in flight takes one token, then the one partial prefill takes what
  the budget leaves. Whoever needs a KV block when none is free preempts the largest key among the running
  requests not in flight: its blocks are freed, it waits again and recomputes prompt and emitted tokens.
  What was loaded for it from elsewhere (``loaded``: its first chunk begins behind that) is lost, too.
  (2) If nothing was preempted, the smallest waiting keys are admitted while budget, ``max_num_seqs`` and
  blocks allow; only the last may be cut to a chunk. The watermark holds while something runs.
* A step emits one token per decode and per prefill that completed. ``host_step_s`` later the host has
  processed it: blocks come free, a router sees the finishes, the next batch is formed.
* With asynchronous scheduling (one stage) the next batch is formed when the one before starts: it knows
  that every request in flight will have its token, but not of arrivals since, and those that get their last
  token still hold blocks and places (and may be the victims, which only frees them). If nothing can be
  formed then, it is tried again at the step's end. The host's work is hidden behind the step.
* Pipeline: a batch is formed whenever fewer than ``num_stages`` are in flight and something can be
  scheduled. It enters stage 0 when that is free and stage j at max(its finish at j - 1 + send, stage j
  free); none overtakes. A partial prefill may go on in the next batch while its last chunk is in flight; if
  it then finds neither blocks nor a victim it waits, and nothing is admitted past it.

Why it is fast: the decodes of a batch run in lock-step, so a decode is two constants (`cohort.py`) and all of
them together are a count, a sum and one counter per block offset. A step costs O(what changes). Each batch
slot of the pipeline, a lane, is such a cohort with its own step count. Plain Python on lists of objects, or
compiled by numba on arrays of records (`compiled.py`): ints, floats and indexing only.

Parts: `waiting.py`, `prefix_cache.py`, `cohort.py`, `batching.py`, `step_time.py`, `lateness.py`, here,
`dispatch.py`.
"""

from __future__ import annotations

from servecast.simulator.engine.batching import (
    admissible,
    admit,
    continue_partial,
    free_lane,
    take_decodes,
)
from servecast.simulator.engine.cohort import finish, join, release_leaving
from servecast.simulator.engine.lateness import count_late_queue, count_late_tokens, hopeless
from servecast.simulator.engine.prefix_cache import take_blocks
from servecast.simulator.engine.state import INFINITY, NONE, Simulation
from servecast.simulator.engine.step_time import decode_s, linear_s, send_s, stage_s
from servecast.simulator.engine.waiting import enqueue_arrivals, front

# Why `advance` returned. FULL: grow the logs, call again; FINISHED: a request did, where asked to stop then.
# STUCK: no request gets a token any more, or the user's function failed.
IDLE, FULL, GIVEN_UP, STUCK, FINISHED = range(5)


def schedule(sim: Simulation, r: int) -> bool:
    """Form one batch now and launch it; False if nothing can be scheduled."""
    replica = sim.replicas[r]
    lane = free_lane(sim, r)
    preemptions = replica.num_preemptions
    take_decodes(sim, r, lane)
    if continue_partial(sim, r, lane) and replica.num_preemptions == preemptions:
        admit(sim, r, lane)
    if sim.lanes[lane].tokens == 0:
        return False
    launch(sim, r, lane)
    return True


def form_and_launch(sim: Simulation, r: int) -> None:
    """Schedule once more; the next time is later if nothing was, or the pipeline is full."""
    replica, run = sim.replicas[r], sim.run[0]
    launched = schedule(sim, r)
    if run.ahead:
        release_leaving(sim, r)
        if not launched and replica.seen_s < replica.now_s:
            replica.seen_s = replica.now_s  # try again with what has happened since
            return
    if not launched or replica.in_flight == run.num_stages:
        replica.due = 0


def launch(sim: Simulation, r: int, lane: int) -> None:
    """Send the lane's batch down the pipeline and log it."""
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    step = sim.steps[run.num_steps]
    run.num_steps += 1
    first = r * run.num_stages
    at_s = replica.now_s
    if replica.seen_s < at_s:  # formed ahead: the host had the last step's time for it
        at_s = max(at_s, replica.seen_s + run.host_step_s)
    step.start_s = max(at_s, sim.stages[first].free_s)
    step.prefill_s = 0.0
    for stage in range(run.num_stages):
        clock = sim.stages[first + stage]
        batch.end_s = max(at_s, clock.free_s) + stage_s(sim, r, stage, lane)
        clock.free_s = batch.end_s
        at_s = batch.end_s + send_s(sim, stage, batch.tokens)
        step.prefill_s += clock.chunks_s
    if run.ahead:
        replica.seen_s = step.start_s  # the next batch is formed when this one starts
    step.end_s = batch.end_s
    step.tokens = batch.tokens
    step.sequences = batch.sequences
    step.decodes = batch.decodes
    step.cached = batch.cached
    step.used_blocks = run.kv_blocks - replica.free
    step.lane = lane
    batch.in_flight = 1
    sim.stages[first + (replica.oldest + replica.in_flight) % run.num_stages].flight = lane
    replica.in_flight += 1
    replica.stalled += 1


def complete(sim: Simulation, r: int) -> None:
    """The oldest batch in flight is processed: its tokens are out, the last ones free their blocks."""
    replica, run = sim.replicas[r], sim.run[0]
    lane = sim.stages[r * run.num_stages + replica.oldest].flight
    batch = sim.lanes[lane]
    replica.oldest = (replica.oldest + 1) % run.num_stages
    replica.in_flight -= 1
    batch.in_flight = 0
    if replica.partial_lane == lane:
        replica.partial_lane = NONE
    if batch.decodes > 0 or batch.joined >= 0:
        replica.stalled = 0
    if batch.decodes > 0 and batch.end_s - batch.previous_end_s > run.tbt_limit_s:
        run.late_gaps += batch.decodes
    batch.previous_end_s = batch.end_s
    batch.cached += batch.decodes
    end_decodes(sim, r, lane)
    i = batch.joined
    batch.joined = NONE
    while i >= 0:
        following = sim.requests[i].link  # before join puts it on the calendar
        join(sim, r, lane, i)
        i = following
    batch.step += 1
    if run.caching and run.ahead == 0:
        release_leaving(sim, r)


def end_decodes(sim: Simulation, r: int, lane: int) -> None:
    """Take out those who got their last token in this step of the lane."""
    batch, run = sim.lanes[lane], sim.run[0]
    day = run.calendar_at + lane * run.days + (batch.step & (run.days - 1))
    i = sim.pool[day]
    sim.pool[day] = NONE
    while i >= 0:
        request = sim.requests[i]
        kv_tokens = request.base + batch.step + 1
        batch.decodes -= 1
        batch.cached -= kv_tokens
        phase = request.base & (run.block_tokens - 1)
        sim.pool[run.phase_at + lane * run.block_tokens + phase] -= 1
        following = request.link  # before finish needs it
        finish(sim, r, i, kv_tokens, batch.end_s)
        i = following


def quiet_until(sim: Simulation, r: int) -> float:
    """When the next arrival can change what the replica does, or -1 if something changes now.

    One stage only. A front that does not fit stays so while nobody finishes: free blocks only fall, and in
    key order no arrival overtakes it.
    """
    replica, run, batch = sim.replicas[r], sim.run[0], sim.lanes[r]
    if run.num_stages > 1 or batch.decodes == 0 or replica.partial >= 0 or replica.leaving >= 0:
        return -1.0
    if run.hooked and replica.num_waiting > 1 and replica.num_running < run.max_num_seqs:
        return -1.0  # another may be picked at any time
    if run.losing and replica.num_waiting + replica.num_fresh > 0:
        return -1.0  # another may give up at any time
    if admissible(sim, r, run.max_batched_tokens - batch.decodes) >= 0:
        return -1.0
    if replica.num_running == run.max_num_seqs:
        return INFINITY
    if replica.next_arrival < 0 or (run.ordered == 1 and front(sim, r) >= 0):
        return INFINITY
    return sim.requests[replica.next_arrival].arrival_s


def fast_forward(sim: Simulation, r: int, until_s: float) -> bool:
    """Run the steps in which nothing changes but one more token per decode; False if there is none.

    Nothing does until an arrival may be admitted, a request finishes or the blocks run out.
    """
    replica, run, batch, steps, pool = (
        sim.replicas[r],
        sim.run[0],
        sim.lanes[r],
        sim.steps,
        sim.pool,
    )
    arrival_s = quiet_until(sim, r)
    phases, block_mask = run.phase_at + r * run.block_tokens, run.block_tokens - 1
    calendar, day_mask = run.calendar_at + r * run.days, run.days - 1
    now_s, end_s, cached, free = replica.now_s, batch.previous_end_s, batch.cached, replica.free
    step, n, width = batch.step, run.num_steps, batch.decodes
    fixed_s = linear_s(sim, 0, width, width)
    seen_s = replica.seen_s
    while now_s < until_s and seen_s < arrival_s and n < len(steps):
        crossing = pool[phases + (-step & block_mask)]
        if crossing > free or pool[calendar + (step & day_mask)] >= 0:
            break
        free -= crossing
        previous_end_s = end_s
        if run.ahead:
            now_s = max(now_s, seen_s + run.host_step_s) if seen_s < now_s else now_s
        end_s = now_s + (fixed_s + decode_s(sim, 0, width, cached))
        if end_s - previous_end_s > run.tbt_limit_s:
            run.late_gaps += width
        log = steps[n]
        log.start_s = now_s
        log.end_s = end_s
        log.prefill_s = 0.0
        log.tokens = log.sequences = log.decodes = width
        log.cached = cached
        log.used_blocks = run.kv_blocks - free
        log.lane = r
        cached += width
        seen_s = now_s
        now_s = end_s
        if run.ahead == 0:
            seen_s = now_s = end_s + run.host_step_s
        step += 1
        n += 1
    if n == run.num_steps:
        return False
    run.num_steps = n
    batch.end_s = batch.previous_end_s = sim.stages[r].free_s = end_s
    batch.step, batch.cached, replica.now_s, replica.free = step, cached, now_s, free
    replica.seen_s = seen_s
    take_blocks(sim, r, 0)  # what the steps took
    return True


def next_event(sim: Simulation, r: int, until_s: float) -> bool:
    """Move the clock to the next step end (up to ``until_s``) or arrival, if there is one."""
    replica, run = sim.replicas[r], sim.run[0]
    arrival_s = end_s = INFINITY
    if replica.next_arrival >= 0 and replica.in_flight < run.num_stages:
        arrival_s = sim.requests[replica.next_arrival].arrival_s
    if replica.in_flight > 0:
        oldest = sim.lanes[sim.stages[r * run.num_stages + replica.oldest].flight]
        end_s = oldest.end_s if run.ahead else oldest.end_s + run.host_step_s
        if end_s <= arrival_s:
            if end_s > until_s:
                return False
            if run.watching:
                count_late_tokens(sim, r, oldest.end_s)
            complete(sim, r)
    if min(arrival_s, end_s) == INFINITY:
        return False
    replica.now_s = max(replica.now_s, min(arrival_s, end_s))
    if run.ahead == 0:
        replica.seen_s = replica.now_s
    replica.due = 1
    return True


def logs_full(sim: Simulation, r: int) -> bool:
    """One more batch might not fit the logs."""
    run = sim.run[0]
    segments = run.num_segments + sim.replicas[r].num_running
    return run.num_steps == len(sim.steps) or segments >= len(sim.segments)


def advance(sim: Simulation, r: int, until_s: float) -> int:
    """Run replica r: the step ends up to ``until_s`` and every batch formed before it."""
    replica, run = sim.replicas[r], sim.run[0]
    while True:
        finished = replica.num_finished
        if replica.due == 0 and not next_event(sim, r, until_s):
            return IDLE
        if run.stop_at_finish and replica.num_finished > finished:
            return FINISHED
        if run.watching and hopeless(sim):
            return GIVEN_UP
        if replica.now_s >= until_s:
            return IDLE
        if logs_full(sim, r):
            return FULL
        enqueue_arrivals(sim, r)
        if fast_forward(sim, r, until_s):
            continue
        if run.watching:
            count_late_queue(sim, r)
        form_and_launch(sim, r)
        if run.hook_failed or replica.stalled > run.max_stalled:
            return STUCK
