"""The exact aggregated engine: continuous batching, chunked prefill, paged KV, preempt-and-recompute.

Semantics: vLLM v1 (vllm/v1/core/sched/scheduler.py). `reference.py` says the same in plain objects and is
the oracle: every time, width and preemption is equal to the last bit.

* At one instant step ends come first, then arrivals, then a batch is formed.
* A batch: (1) every decode that is not in flight takes one token, then the one partial prefill takes what
  the budget leaves. Whoever needs a KV block when none is free preempts the largest key among the running
  requests not in flight: its blocks are freed, it waits again and recomputes prompt and emitted tokens.
  (2) If nothing was preempted, the smallest waiting keys are admitted while budget, ``max_num_seqs`` and
  blocks allow; only the last may be cut to a chunk. The watermark holds while something runs.
* A step emits one token per decode and per prefill that completed. ``host_step_s`` later the host has
  processed it: blocks come free, a router sees the finishes, the next batch is formed.
* Pipeline: a batch is formed whenever fewer than ``stages`` are in flight and something can be scheduled.
  It enters stage 0 when that is free and stage j at max(its finish at j - 1 + send, stage j free). They do not
  overtake. A partial prefill may go on in the next batch while its last chunk is in flight; if it then
  finds neither blocks nor a victim it waits, and nothing is admitted past it.

Why it is fast: decodes of one batch run in lock-step, so a decode is two constants, ``base`` = KV tokens -
local step and ``last`` = local step of its last token, and all of them together are a count, a sum and one
counter per block offset. A step costs O(what changes). Each batch slot of the pipeline (a lane) is such a
cohort with its own step count. Plain Python on lists of objects, or compiled by numba on arrays of records
(`compiled.py`): only ints, floats and indexing here, and every function in this one file.
"""

from __future__ import annotations

from servecast.simulator.state import Simulation

IDLE, FULL, GIVEN_UP, LIVELOCK = range(4)  # why `advance` returned; FULL: grow the logs, call again
NONE = -1
INFINITY = float("inf")


def blocks_for(sim: Simulation, tokens: int) -> int:
    return (tokens + sim.limits.block_tokens - 1) >> sim.limits.block_shift


def push(sim: Simulation, r: int, i: int) -> None:
    """Add request i to the replica's heap of waiting requests, smallest key on top."""
    replica = sim.replicas[r]
    heap, top, requests = sim.waiting, r * sim.limits.max_waiting, sim.requests
    n = replica.num_waiting
    while n > 0 and requests[heap[top + ((n - 1) >> 1)]].key > requests[i].key:
        heap[top + n] = heap[top + ((n - 1) >> 1)]
        n = (n - 1) >> 1
    heap[top + n] = i
    replica.num_waiting += 1


def pop(sim: Simulation, r: int) -> None:
    """Remove the smallest key from the replica's heap."""
    replica = sim.replicas[r]
    heap, top, requests = sim.waiting, r * sim.limits.max_waiting, sim.requests
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
    """The waiting request with the smallest key. In key order fresh arrivals need no heap: it holds
    only the preempted, whose keys are all smaller."""
    replica = sim.replicas[r]
    if replica.num_waiting > 0:
        return sim.waiting[r * sim.limits.max_waiting]
    return replica.head if replica.num_fresh > 0 else NONE


def enqueue_arrivals(sim: Simulation, r: int) -> None:
    replica, requests = sim.replicas[r], sim.requests
    while replica.next_arrival >= 0:
        i = replica.next_arrival
        if requests[i].arrival_s > replica.now_s:
            return
        replica.next_arrival = requests[i].next_in_replica
        if sim.limits.ordered:
            replica.num_fresh += 1
        else:
            push(sim, r, i)


def retire(sim: Simulation, r: int, i: int, kv_tokens: int) -> None:
    """Request i leaves the running ones and gives its blocks back."""
    replica, requests = sim.replicas[r], sim.requests
    first = r * sim.limits.max_num_seqs
    replica.free += blocks_for(sim, kv_tokens)
    replica.num_running -= 1
    moved = sim.running[first + replica.num_running]
    sim.running[first + requests[i].position] = moved
    requests[moved].position = requests[i].position


def join(sim: Simulation, r: int, lane: int, i: int) -> None:
    """Request i got a token from its prefill in the step that ends; it decodes from the next one on."""
    request, batch, limits = sim.requests[i], sim.lanes[lane], sim.limits
    if request.first_token_s != request.first_token_s:  # NaN: never had one
        request.first_token_s = batch.end_s
    elif batch.end_s - request.last_token_s > sim.run[0].tbt_limit_s:
        sim.run[0].late_gaps += 1
    request.lane = lane
    request.base = request.prompt - batch.step - 1
    request.last = batch.step + request.remaining - 1
    if request.remaining == 1:
        finish(sim, r, i, request.prompt, batch.end_s)
        return
    batch.decodes += 1
    batch.cached += request.prompt
    sim.phase[lane * limits.block_tokens + (request.base & (limits.block_tokens - 1))] += 1
    day = lane * limits.days + (request.last & (limits.days - 1))
    request.link = sim.calendar[day]
    sim.calendar[day] = i


def finish(sim: Simulation, r: int, i: int, kv_tokens: int, end_s: float) -> None:
    sim.requests[i].finish_s = end_s
    sim.replicas[r].num_finished += 1
    retire(sim, r, i, kv_tokens)


def strike(sim: Simulation, day: int, i: int) -> None:
    """Take request i off the calendar's day."""
    requests = sim.requests
    j = sim.calendar[day]
    if j == i:
        sim.calendar[day] = requests[i].link
        return
    while requests[j].link != i:
        j = requests[j].link
    requests[j].link = requests[i].link


def stop_decoding(sim: Simulation, lane: int, i: int) -> None:
    """Request i leaves its cohort; the tokens it emitted become prompt."""
    request, batch, limits = sim.requests[i], sim.lanes[lane], sim.limits
    batch.decodes -= 1
    batch.tokens = batch.sequences = batch.decodes  # of the batch being formed, so far decodes only
    batch.cached -= request.base + batch.step
    sim.phase[lane * limits.block_tokens + (request.base & (limits.block_tokens - 1))] -= 1
    strike(sim, lane * limits.days + (request.last & (limits.days - 1)), i)
    segment = sim.segments[sim.run[0].num_segments]
    sim.run[0].num_segments += 1
    segment.request = i
    segment.lane = lane
    segment.first = request.prompt - request.base - 1
    segment.last = batch.step - 1
    emitted = batch.step - segment.first
    request.prompt += emitted
    request.remaining -= emitted
    request.last_token_s = batch.end_s


def preempt(sim: Simulation, r: int, held: int) -> bool:
    """Send the largest key among the running not in flight back to waiting; False if all are in flight.
    held = 1: decodes already own the block of the batch that is being formed."""
    replica, requests = sim.replicas[r], sim.requests
    victim = NONE
    for k in range(r * sim.limits.max_num_seqs, r * sim.limits.max_num_seqs + replica.num_running):
        i = sim.running[k]
        if victim >= 0 and requests[i].key < requests[victim].key:
            continue
        if i == replica.partial:
            in_flight = replica.partial_lane >= 0
        else:
            in_flight = sim.lanes[requests[i].lane].in_flight == 1
        if not in_flight:
            victim = i
    if victim < 0:
        return False
    if victim == replica.partial:
        retire(sim, r, victim, replica.filled)
        replica.partial = NONE
    else:
        lane = requests[victim].lane
        retire(sim, r, victim, requests[victim].base + sim.lanes[lane].step + held)
        stop_decoding(sim, lane, victim)
    requests[victim].preemptions += 1
    replica.num_preemptions += 1
    push(sim, r, victim)
    return True


def prefill_s(sim: Simulation, stage: int, context: int, chunk: int) -> float:
    """Attention time of one prefill chunk, bilinear."""
    t = sim.tables
    x = context * t.per_context_step
    y = chunk * t.per_chunk_step
    i = min(int(x), t.num_contexts - 2)
    j = min(int(y), t.num_chunks - 2)
    k = (stage * t.num_contexts + i) * t.num_chunks + j
    below = t.prefill_s[k] + (t.prefill_s[k + 1] - t.prefill_s[k]) * (y - j)
    k += t.num_chunks
    above = t.prefill_s[k] + (t.prefill_s[k + 1] - t.prefill_s[k]) * (y - j)
    return below + (above - below) * (x - i)


def decode_s(sim: Simulation, row: int, cached: int) -> float:
    """Attention time of a row (one stage and number of decodes) of the decode table, linear in K."""
    t = sim.tables
    x = cached * t.per_kv_step
    k = min(int(x), t.num_kv - 2)
    low = t.decode_s[row * t.num_kv + k]
    return low + (t.decode_s[row * t.num_kv + k + 1] - low) * (x - k)


def stage_s(sim: Simulation, stage: int, lane: int) -> float:
    """Time of the batch of this lane in one stage."""
    t, batch = sim.tables, sim.lanes[lane]
    time_s = t.token_s[stage * t.num_tokens + batch.tokens]
    time_s += t.sequence_s[stage * t.num_sequences + batch.sequences]
    if batch.tokens > batch.decodes:
        time_s += t.prefill_base_s[stage] + sim.chunks_s[stage]
    if batch.decodes > 0:
        time_s += decode_s(sim, stage * t.num_sequences + batch.decodes, batch.cached)
    return time_s


def add_chunk(sim: Simulation, lane: int, i: int, context: int, chunk: int) -> bool:
    """Put a prefill chunk into the lane's batch; True if the prefill is complete with it."""
    batch, request = sim.lanes[lane], sim.requests[i]
    batch.tokens += chunk
    batch.sequences += 1
    for stage in range(sim.limits.stages):
        sim.chunks_s[stage] += prefill_s(sim, stage, context, chunk)
    request.lane = lane
    if context + chunk < request.prompt:
        return False
    request.link = batch.joined
    batch.joined = i
    return True


def continue_partial(sim: Simulation, r: int, lane: int) -> bool:
    """Give the partial prefill its next chunk; False if memory was short."""
    replica, batch = sim.replicas[r], sim.lanes[lane]
    i = replica.partial
    chunk = min(
        sim.requests[i].prompt - replica.filled, sim.limits.max_batched_tokens - batch.tokens
    )
    if chunk == 0:
        return True
    need = blocks_for(sim, replica.filled + chunk) - blocks_for(sim, replica.filled)
    while need > replica.free:
        if not preempt(sim, r, 1) or replica.partial < 0:
            return False
    replica.free -= need
    if add_chunk(sim, lane, i, replica.filled, chunk):
        replica.partial = NONE
    else:
        replica.filled += chunk
        replica.partial_lane = lane
    return True


def admissible(sim: Simulation, r: int, left: int) -> int:
    """The waiting request that may be admitted with this much budget left, or NONE."""
    replica, limits = sim.replicas[r], sim.limits
    i = front(sim, r)
    if i < 0 or left <= 0 or replica.num_running >= limits.max_num_seqs:
        return NONE
    tokens = sim.requests[i].prompt
    if not limits.reserve_prompt:
        tokens = min(tokens, left)
    watermark = limits.watermark_blocks if replica.num_running > 0 else 0
    return i if blocks_for(sim, tokens) <= replica.free - watermark else NONE


def admit(sim: Simulation, r: int, lane: int) -> None:
    """Move waiting requests into the lane's batch while budget, sequences and blocks allow."""
    replica, batch, limits = sim.replicas[r], sim.lanes[lane], sim.limits
    while True:
        i = admissible(sim, r, limits.max_batched_tokens - batch.tokens)
        if i < 0:
            return
        request = sim.requests[i]
        if replica.num_waiting > 0:
            pop(sim, r)
        else:
            replica.num_fresh -= 1
            replica.head = request.next_in_replica
        request.position = replica.num_running
        sim.running[r * limits.max_num_seqs + replica.num_running] = i
        replica.num_running += 1
        chunk = min(request.prompt, limits.max_batched_tokens - batch.tokens)
        replica.free -= blocks_for(sim, chunk)
        if request.scheduled_s != request.scheduled_s:  # NaN: never was
            request.scheduled_s = replica.now_s
        if not add_chunk(sim, lane, i, 0, chunk):
            replica.partial = i
            replica.filled = chunk
            replica.partial_lane = lane


def free_lane(sim: Simulation, r: int) -> int:
    """A lane with nothing in flight; the one with decodes, if there is one."""
    stages = sim.limits.stages
    lane = r * stages
    if stages == 1:
        return lane
    idle = lane
    for k in range(lane, lane + stages):
        if sim.lanes[k].in_flight == 0:
            idle = k
            if sim.lanes[k].decodes > 0:
                return k
    return idle


def schedule(sim: Simulation, r: int) -> bool:
    """Form one batch at ``now_s`` and launch it; False if nothing can be scheduled."""
    replica, limits = sim.replicas[r], sim.limits
    lane = free_lane(sim, r)
    batch = sim.lanes[lane]
    preemptions = replica.num_preemptions
    row = lane * limits.block_tokens
    while sim.phase[row + (-batch.step & (limits.block_tokens - 1))] > replica.free:
        preempt(sim, r, 0)
    replica.free -= sim.phase[row + (-batch.step & (limits.block_tokens - 1))]
    batch.tokens = batch.sequences = batch.decodes
    for stage in range(limits.stages):
        sim.chunks_s[stage] = 0.0
    room = replica.partial < 0 or continue_partial(sim, r, lane)
    if room and replica.num_preemptions == preemptions:
        admit(sim, r, lane)
    if batch.tokens == 0:
        return False
    launch(sim, r, lane)
    return True


def launch(sim: Simulation, r: int, lane: int) -> None:
    """Send the lane's batch down the pipeline and log it."""
    replica, batch, stages = sim.replicas[r], sim.lanes[lane], sim.limits.stages
    step = sim.steps[sim.run[0].num_steps]
    sim.run[0].num_steps += 1
    at_s = replica.now_s
    step.prefill_s = 0.0
    for stage in range(stages):
        start_s = max(at_s, sim.stage_free_s[r * stages + stage])
        if stage == 0:
            step.start_s = start_s
        batch.end_s = start_s + stage_s(sim, stage, lane)
        sim.stage_free_s[r * stages + stage] = batch.end_s
        at_s = batch.end_s + sim.tables.send_s[stage * sim.tables.num_tokens + batch.tokens]
        step.prefill_s += sim.chunks_s[stage]
    step.end_s = batch.end_s
    step.tokens = batch.tokens
    step.sequences = batch.sequences
    step.decodes = batch.decodes
    step.cached = batch.cached
    step.used_blocks = sim.limits.kv_blocks - replica.free
    step.lane = lane
    batch.in_flight = 1
    sim.flights[r * stages + (replica.oldest + replica.in_flight) % stages] = lane
    replica.in_flight += 1
    replica.stalled += 1


def complete(sim: Simulation, r: int) -> None:
    """The oldest batch in flight has been processed: every decode got a token, every finished prefill
    its first; the last tokens free their blocks."""
    replica, limits, run = sim.replicas[r], sim.limits, sim.run[0]
    lane = sim.flights[r * limits.stages + replica.oldest]
    batch = sim.lanes[lane]
    replica.oldest = (replica.oldest + 1) % limits.stages
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
    day = lane * limits.days + (batch.step & (limits.days - 1))
    i = sim.calendar[day]
    sim.calendar[day] = NONE
    while i >= 0:
        kv_tokens = sim.requests[i].base + batch.step + 1
        batch.decodes -= 1
        batch.cached -= kv_tokens
        sim.phase[
            lane * limits.block_tokens + (sim.requests[i].base & (limits.block_tokens - 1))
        ] -= 1
        finish(sim, r, i, kv_tokens, batch.end_s)
        i = sim.requests[i].link
    i = batch.joined
    batch.joined = NONE
    while i >= 0:
        following = sim.requests[i].link  # before join puts it on the calendar
        join(sim, r, lane, i)
        i = following
    batch.step += 1


def fast_forward(sim: Simulation, r: int, until_s: float) -> bool:
    """Run the steps in which nothing changes but one more token per decode; False if there is none.

    One stage only. Nothing can change until an arrival may be admitted, a request finishes or the blocks run
    out. A front that does not fit stays so: free blocks only fall, and in key order no arrival overtakes it.
    """
    replica, limits, run, steps = sim.replicas[r], sim.limits, sim.run[0], sim.steps
    batch, t = sim.lanes[r], sim.tables
    mask, row, days = limits.block_tokens - 1, r * limits.block_tokens, r * limits.days
    width = batch.decodes
    if limits.stages > 1 or width == 0 or replica.partial >= 0:
        return False
    if sim.calendar[days + (batch.step & (limits.days - 1))] >= 0:
        return False
    if admissible(sim, r, limits.max_batched_tokens - width) >= 0:
        return False
    stop_s = until_s
    closed = replica.num_running == limits.max_num_seqs or (limits.ordered and front(sim, r) >= 0)
    if not closed and replica.next_arrival >= 0:
        stop_s = min(stop_s, sim.requests[replica.next_arrival].arrival_s)
    now_s, end_s, cached, free = replica.now_s, batch.previous_end_s, batch.cached, replica.free
    step, n = batch.step, run.num_steps
    fixed_s = t.token_s[width] + t.sequence_s[width]
    while now_s < stop_s and n < len(steps):
        cross = sim.phase[row + (-step & mask)]
        if cross > free or sim.calendar[days + (step & (limits.days - 1))] >= 0:
            break
        free -= cross
        previous_end_s = end_s
        end_s = now_s + (fixed_s + decode_s(sim, width, cached))
        if end_s - previous_end_s > run.tbt_limit_s:
            run.late_gaps += width
        log = steps[n]
        log.start_s = now_s
        log.end_s = end_s
        log.prefill_s = 0.0
        log.tokens = log.sequences = log.decodes = width
        log.cached = cached
        log.used_blocks = limits.kv_blocks - free
        log.lane = r
        cached += width
        now_s = end_s + t.host_step_s
        step += 1
        n += 1
    if n == run.num_steps:
        return False
    run.num_steps = n
    batch.end_s = batch.previous_end_s = sim.stage_free_s[r] = end_s
    batch.step, batch.cached, replica.now_s, replica.free = step, cached, now_s, free
    return True


def overdue(sim: Simulation, r: int, passed: int, at_s: float, limit_s: float) -> int:
    """The replica's next request, in arrival order after ``passed``, if it is older than the limit."""
    i = sim.replicas[r].first if passed < 0 else sim.requests[passed].next_in_replica
    return i if i >= 0 and at_s - sim.requests[i].arrival_s > limit_s else NONE


def count_late_queue(sim: Simulation, r: int) -> None:
    """Count the requests that are not scheduled before ``now_s`` although their queue delay is over."""
    replica, run = sim.replicas[r], sim.run[0]
    i = overdue(sim, r, replica.passed_queue, replica.now_s, run.queue_delay_limit_s)
    while i >= 0:
        replica.passed_queue = i
        if sim.requests[i].scheduled_s != sim.requests[i].scheduled_s:  # NaN: still waits
            run.late_queue_delay += 1
        i = overdue(sim, r, i, replica.now_s, run.queue_delay_limit_s)


def count_late_tokens(sim: Simulation, r: int, end_s: float) -> None:
    """Count the requests whose first (last) token is not out before ``end_s`` although its time is over."""
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


def next_event(sim: Simulation, r: int, until_s: float) -> bool:
    """Move the clock to the next step end (up to ``until_s``) or arrival (before it), if there is one."""
    replica, limits = sim.replicas[r], sim.limits
    arrival_s = end_s = INFINITY
    if replica.next_arrival >= 0 and replica.in_flight < limits.stages:
        arrival_s = sim.requests[replica.next_arrival].arrival_s
    if replica.in_flight > 0:
        oldest = sim.lanes[sim.flights[r * limits.stages + replica.oldest]]
        end_s = oldest.end_s + sim.tables.host_step_s
        if end_s <= arrival_s:
            if end_s > until_s:
                return False
            if sim.run[0].watching:
                count_late_tokens(sim, r, oldest.end_s)
            complete(sim, r)
    if min(arrival_s, end_s) == INFINITY or (arrival_s < end_s and arrival_s >= until_s):
        return False
    replica.now_s = max(replica.now_s, min(arrival_s, end_s))
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
        if replica.due == 0:
            if not next_event(sim, r, until_s):
                return IDLE
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
        if not schedule(sim, r) or replica.in_flight == sim.limits.stages:
            replica.due = 0
        if replica.stalled > sim.limits.max_stalled:
            return LIVELOCK


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
    if sim.limits.routed:
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
