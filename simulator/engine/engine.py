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

Parts: `waiting.py`, `prefix_cache.py`, `cohort.py`, `batching.py`, `prompts_first.py`, `step_time.py`,
`in_flight.py`, `fast_forward.py`, `lateness.py`, here, `dispatch.py`. `batch_rules.py` turns it into other
engines.
"""

from __future__ import annotations

from servecast.simulator.engine.batching import (
    admit,
    continue_partial,
    free_lane,
    take_decodes,
    token_budget,
)
from servecast.simulator.engine.cohort import release_leaving
from servecast.simulator.engine.fast_forward import fast_forward
from servecast.simulator.engine.in_flight import complete, launch
from servecast.simulator.engine.lateness import count_late_queue, count_late_tokens, hopeless
from servecast.simulator.engine.prompts_first import form
from servecast.simulator.engine.state import INFINITY, NONE, Simulation
from servecast.simulator.engine.waiting import enqueue_arrivals

# Why `advance` returned. FULL: grow the logs, call again; FINISHED: a request did, where asked to stop then.
# STUCK: no request gets a token any more, or the user's function failed. PAUSED: there are more requests.
IDLE, FULL, GIVEN_UP, STUCK, FINISHED, PAUSED = range(6)


def schedule(sim: Simulation, r: int) -> bool:
    """Form one batch now and launch it; False if nothing can be scheduled."""
    replica, run = sim.replicas[r], sim.run[0]
    lane = r if run.num_stages == 1 else free_lane(sim, r)
    batch, preemptions = sim.lanes[lane], replica.num_preemptions
    if run.prompts_first:
        form(sim, r)
        if batch.tokens > 0:
            launch(sim, r, lane)
        return batch.tokens > 0
    take_decodes(sim, r, lane)
    budget = token_budget(sim, r, lane) if run.budgeting else run.max_batched_tokens
    gone_on = replica.partial < 0 or continue_partial(sim, r, lane, budget)
    if gone_on and batch.tokens < budget:
        waiting = replica.num_waiting + replica.num_fresh
        if waiting > 0 and (replica.num_preemptions == preemptions or run.whole_blocks):
            admit(sim, r, lane, budget)
    if batch.tokens == 0 or run.hook_failed:
        return False
    launch(sim, r, lane)
    return True


def form_and_launch(sim: Simulation, r: int) -> None:
    """Schedule once more; the next time is later if nothing was, or the pipeline is full."""
    replica, run = sim.replicas[r], sim.run[0]
    if run.watching:
        count_late_queue(sim, r)
    launched = schedule(sim, r)
    if run.ahead:
        release_leaving(sim, r)
        if not launched and replica.seen_s < replica.now_s:
            replica.seen_s = replica.now_s  # try again with what has happened since
            return
    if not launched or replica.in_flight == run.num_stages:
        replica.due = 0


def next_event(sim: Simulation, r: int, until_s: float) -> bool:
    """Move the clock to the next step end (up to ``until_s``) or arrival, if there is one."""
    replica, run = sim.replicas[r], sim.run[0]
    arrival_s = end_s = INFINITY
    if replica.in_flight < run.num_stages and replica.next_arrival >= 0:
        arrival_s = sim.requests[replica.next_arrival].arrival_s
    if replica.in_flight > 0:
        lane = r
        if run.num_stages > 1:
            lane = sim.stages[r * run.num_stages + replica.oldest].flight
        oldest = sim.lanes[lane]
        end_s = oldest.end_s if run.ahead else oldest.end_s + run.host_step_s
        if end_s <= arrival_s:
            if end_s > until_s:
                return False
            if run.watching:
                count_late_tokens(sim, r, oldest.end_s)
            complete(sim, r)
    next_s = end_s if end_s <= arrival_s else arrival_s
    if next_s == INFINITY:
        return False
    if next_s > replica.now_s:
        replica.now_s = next_s
    if run.ahead == 0:
        replica.seen_s = replica.now_s
    replica.due = 1
    return True


def forget(sim: Simulation) -> bool:
    """Begin the logs anew, if nobody looks at them."""
    run = sim.run[0]
    if run.forgetting:
        run.num_steps = run.num_segments = run.num_gaps = 0
    return run.forgetting > 0


def advance(sim: Simulation, r: int, until_s: float) -> int:
    """Run replica r: the step ends up to ``until_s`` and every batch formed before it."""
    replica, run, requests = sim.replicas[r], sim.run[0], sim.requests
    max_steps, max_segments = len(sim.steps), len(sim.segments)
    stop_at_finish, watching, max_stalled = run.stop_at_finish, run.watching, run.max_stalled
    while True:
        finished = replica.num_finished
        if replica.due == 0 and not next_event(sim, r, until_s):
            return IDLE
        if stop_at_finish and replica.num_finished > finished:
            return FINISHED
        if watching and hopeless(sim):
            return GIVEN_UP
        if replica.now_s >= until_s:
            return IDLE
        kept = run.num_segments + run.num_gaps + replica.num_running
        if (run.num_steps == max_steps or kept >= max_segments) and not forget(sim):
            return FULL  # one more batch might not fit the logs
        replica.chosen = NONE  # time has passed
        i = replica.next_arrival
        if i >= 0 and requests[i].arrival_s <= replica.seen_s:
            enqueue_arrivals(sim, r)
        if replica.partial < 0 and fast_forward(sim, r, until_s):
            continue
        form_and_launch(sim, r)
        if replica.stalled > max_stalled or run.hook_failed:
            return STUCK
