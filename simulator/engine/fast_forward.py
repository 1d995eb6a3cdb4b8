"""The steps in which nothing changes but one more token per decode, in a loop of their own."""

from __future__ import annotations

from servecast.simulator.engine.batching import admissible
from servecast.simulator.engine.prefix_cache import evict
from servecast.simulator.engine.prompts_first import lower_ratio
from servecast.simulator.engine.state import INFINITY, NONE, Lane, Simulation
from servecast.simulator.engine.step_time import linear_s
from servecast.simulator.engine.waiting import front


def quiet_until(sim: Simulation, r: int, decodes: int) -> float:
    """When the next arrival can change what the replica does, or -1 if something changes now.

    No lane has more than so many decodes. A front that does not fit stays so while nobody finishes: free
    blocks only fall, the budget is never less, and in key order no arrival overtakes it.
    """
    replica, run = sim.replicas[r], sim.run[0]
    if replica.partial >= 0 or replica.leaving >= 0 or decodes == 0:
        return -1.0
    if replica.num_running < run.max_num_seqs:
        if run.picking and replica.num_waiting > 1:
            return -1.0  # another may be picked at any time
        if run.budgeting and replica.num_waiting + replica.num_fresh > 0:
            return -1.0  # and there may be more place for it
    if (run.losing or run.prompts_first) and replica.num_waiting + replica.num_fresh > 0:
        return (
            -1.0
        )  # another may give up at any time, and less is expected of others with every step
    if admissible(sim, r, run.max_batched_tokens - decodes) >= 0:
        return -1.0
    if replica.num_running == run.max_num_seqs:
        return INFINITY
    if replica.next_arrival < 0 or (run.ordered == 1 and front(sim, r) >= 0):
        return INFINITY
    return sim.requests[replica.next_arrival].arrival_s


def count_most(sim: Simulation, decodes: int, blocks: int) -> None:
    """No step of decodes had more of these."""
    run = sim.run[0]
    run.most_tokens = max(run.most_tokens, decodes)
    run.most_sequences = max(run.most_sequences, decodes)
    run.most_blocks = max(run.most_blocks, blocks)


def fast_forward(sim: Simulation, r: int, until_s: float) -> bool:
    """Run the steps in which nothing changes but one more token per decode; False if there is none.

    Nothing does until an arrival may be admitted, a request finishes or the blocks run out.
    """
    if sim.run[0].num_stages > 1:
        return forward_pipeline(sim, r, until_s)
    return forward_alone(sim, r, until_s)


def forward_alone(sim: Simulation, r: int, until_s: float) -> bool:
    """`fast_forward` of one stage."""
    arrival_s = quiet_until(sim, r, sim.lanes[r].decodes)
    if arrival_s < 0.0:
        return False
    replica, run, batch = sim.replicas[r], sim.run[0], sim.lanes[r]
    steps, pool, times = sim.steps, sim.pool, sim.times
    phases, block_mask = run.phase_at + r * run.block_tokens, run.block_tokens - 1
    calendar, day_mask = run.calendar_at + r * run.days, run.days - 1
    now_s, end_s, cached, free = replica.now_s, batch.previous_end_s, batch.cached, replica.free
    step, n, width = batch.step, run.num_steps, batch.decodes
    ahead, host_step_s, kv_blocks = run.ahead, run.host_step_s, run.kv_blocks
    fixed_s = linear_s(sim, 0, width, width)
    per_kv, row, last = run.per_kv_step, run.decode_at + width * run.num_kv, run.num_kv - 2
    seen_s, spare = replica.seen_s, run.whole_blocks
    while now_s < until_s and seen_s < arrival_s and n < len(steps):
        crossing = pool[phases + (-step & block_mask)]
        if crossing + spare > free or pool[calendar + (step & day_mask)] >= 0:
            break
        free -= crossing
        previous_end_s = end_s
        if ahead:
            now_s = max(now_s, seen_s + host_step_s) if seen_s < now_s else now_s
        x = cached * per_kv  # as `step_time.decode_s` has it
        j = int(x)
        j = row + (j if j < last else last)
        end_s = now_s + (fixed_s + (times[j] + (times[j + 1] - times[j]) * (x - (j - row))))
        if end_s - previous_end_s > run.tbt_limit_s:
            run.late_gaps += width
        log = steps[n]
        log.start_s = now_s
        log.end_s = end_s
        log.prefill_s = 0.0
        log.tokens = log.sequences = log.decodes = width
        log.cached = cached
        log.used_blocks = kv_blocks - free
        log.lane = r
        cached += width
        seen_s = now_s
        now_s = end_s
        if not ahead:
            seen_s = now_s = end_s + host_step_s
        step += 1
        n += 1
    if n == run.num_steps:
        return False
    if run.prompts_first:
        lower_ratio(sim, r, n - run.num_steps)
    run.num_steps = n
    count_most(sim, width, kv_blocks - free)
    batch.end_s = batch.previous_end_s = sim.stages[r].free_s = end_s
    batch.step, batch.cached, replica.now_s, replica.free = step, cached, now_s, free
    replica.seen_s = seen_s
    if run.caching:
        evict(sim, r)  # what the steps took
    return True


def resting_lane(sim: Simulation, r: int) -> int:
    """The one lane whose decodes are not in flight, or NONE: there is none, or another."""
    stages, found = sim.run[0].num_stages, NONE
    for lane in range(r * stages, r * stages + stages):
        if sim.lanes[lane].decodes > 0 and sim.lanes[lane].in_flight == 0:
            if found >= 0:
                return NONE
            found = lane
    return found


def most_decodes(sim: Simulation, r: int) -> int:
    stages, most = sim.run[0].num_stages, 0
    for lane in range(r * stages, r * stages + stages):
        most = max(most, sim.lanes[lane].decodes)
    return most


def brings_tokens_alone(sim: Simulation, lane: int) -> bool:
    """Whether the lane's batch in flight changes nothing but one more token per decode."""
    batch, run = sim.lanes[lane], sim.run[0]
    day = run.calendar_at + lane * run.days + (batch.step & (run.days - 1))
    return batch.decodes > 0 and batch.joined < 0 and sim.pool[day] < 0


def pass_stages(sim: Simulation, first: int, batch: Lane, number: int, at_s: float) -> float:
    """Send decodes down the pipeline from its ``first`` stage on, as `in_flight.launch` does, in the step of
    that ``number``; when they are through."""
    run, times, stages = sim.run[0], sim.times, sim.stages
    width, tokens, sequences, num_kv = batch.decodes, run.num_tokens, run.num_sequences, run.num_kv
    x = batch.cached * run.per_kv_step
    j = int(x)
    j = j if j < num_kv - 2 else num_kv - 2
    share, plane = x - j, sequences * num_kv
    token, sequence, send = run.token_at + width, run.sequence_at + width, run.send_at + width
    k = run.decode_at + width * num_kv + j
    clock = stages[first]
    at_s = max(at_s, clock.free_s)
    sim.steps[number].start_s = at_s
    at_s += times[token] + times[sequence] + (times[k] + (times[k + 1] - times[k]) * share)
    clock.free_s = at_s
    for stage in range(first + 1, first + run.num_stages):
        sent_s = times[send]
        token, sequence, send, k = token + tokens, sequence + sequences, send + tokens, k + plane
        fixed_s = times[token] + times[sequence]
        step_s = fixed_s + (times[k] + (times[k + 1] - times[k]) * share)
        clock = stages[stage]
        at_s = max(at_s + sent_s, clock.free_s) + step_s
        clock.free_s = at_s
    return at_s


def log_decodes(sim: Simulation, lane: int, number: int, used_blocks: int, end_s: float) -> None:
    """The lane's decodes are in flight, and through at ``end_s``."""
    batch, log = sim.lanes[lane], sim.steps[number]
    width = batch.decodes
    log.end_s = batch.end_s = end_s
    log.prefill_s = 0.0
    log.tokens = log.sequences = log.decodes = batch.tokens = batch.sequences = width
    log.cached = batch.cached
    log.used_blocks = used_blocks
    log.lane = lane
    batch.number = number
    batch.in_flight = 1


def go_on(batch: Lane) -> None:
    """`in_flight.complete` of a batch that brings tokens alone."""
    batch.in_flight = 0
    batch.cached += batch.decodes
    batch.previous_end_s = batch.end_s
    batch.step += 1


def forward_pipeline(sim: Simulation, r: int, until_s: float) -> bool:
    """`fast_forward` of several stages: each batch that is through goes round again at once."""
    replica, run, pool = sim.replicas[r], sim.run[0], sim.pool
    lane = resting_lane(sim, r)
    if lane < 0:
        return False
    # One token of the budget is left in any batch: without that no admission is looked at.
    arrival_s = quiet_until(sim, r, min(most_decodes(sim, r), run.max_batched_tokens - 1))
    if arrival_s < 0.0:
        return False
    stages, first = run.num_stages, r * run.num_stages
    phases, block_tokens = run.phase_at, run.block_tokens
    host_step_s, limit_s = run.host_step_s, run.tbt_limit_s
    kv_blocks, spare, free = run.kv_blocks, run.whole_blocks, replica.free
    oldest, in_flight, stalled = replica.oldest, replica.in_flight, replica.stalled
    now_s, n, most, late = replica.now_s, run.num_steps, 0, 0
    while now_s < until_s and n < len(sim.steps):
        batch = sim.lanes[lane]
        crossing = pool[phases + lane * block_tokens + (-batch.step & (block_tokens - 1))]
        if crossing + spare > free:
            break
        free -= crossing
        most = max(most, batch.decodes)
        end_s = pass_stages(sim, first, batch, n, now_s)
        log_decodes(sim, lane, n, kv_blocks - free, end_s)
        place = oldest + in_flight
        sim.stages[first + (place if place < stages else place - stages)].flight = lane
        n, in_flight, stalled = n + 1, in_flight + 1, stalled + 1
        lane = sim.stages[first + oldest].flight
        batch = sim.lanes[lane]
        end_s = batch.end_s + host_step_s
        if end_s >= arrival_s or end_s > until_s or not brings_tokens_alone(sim, lane):
            replica.due = 0
            break
        oldest = oldest + 1 if oldest + 1 < stages else 0
        in_flight, stalled = in_flight - 1, 0
        late += batch.decodes if batch.end_s - batch.previous_end_s > limit_s else 0
        go_on(batch)
        now_s = max(now_s, end_s)
    if n == run.num_steps:
        return False
    run.num_steps = n
    run.late_gaps += late
    replica.oldest, replica.in_flight, replica.stalled = oldest, in_flight, stalled
    replica.now_s, replica.seen_s, replica.free = now_s, now_s, free
    count_most(sim, most, kv_blocks - free)
    if run.caching:
        evict(sim, r)  # what the steps took
    return True
