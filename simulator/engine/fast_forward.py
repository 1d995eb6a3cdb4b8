"""The steps in which nothing changes but one more token per decode, in a loop of their own."""

from __future__ import annotations

from servecast.simulator.engine.batching import admissible
from servecast.simulator.engine.in_flight import complete
from servecast.simulator.engine.prefix_cache import evict
from servecast.simulator.engine.prompts_first import lower_ratio
from servecast.simulator.engine.state import INFINITY, NONE, Simulation
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


def pass_stages(sim: Simulation, r: int, lane: int, at_s: float) -> float:
    """Send the lane's decodes down the pipeline, as `in_flight.launch` does, and log them but for their
    times of leaving; when they are through."""
    run, batch, times = sim.run[0], sim.lanes[lane], sim.times
    width, stages, after = batch.decodes, run.num_stages, run.num_tokens
    x = batch.cached * run.per_kv_step
    j = int(x)
    j = j if j < run.num_kv - 2 else run.num_kv - 2
    share, plane = x - j, run.num_sequences * run.num_kv
    token, sequence, send = run.token_at + width, run.sequence_at + width, run.send_at + width
    k = run.decode_at + width * run.num_kv + j
    sent_s = 0.0
    for stage in range(r * stages, r * stages + stages):
        clock = sim.stages[stage]
        at_s = max(at_s + sent_s, clock.free_s)
        if stage == r * stages:
            sim.steps[run.num_steps].start_s = at_s
        fixed_s = times[token] + times[sequence]
        at_s += fixed_s + (times[k] + (times[k + 1] - times[k]) * share)
        clock.free_s = at_s
        sent_s = times[send]
        token, sequence, send, k = (
            token + after,
            sequence + run.num_sequences,
            send + after,
            k + plane,
        )
    return at_s


def log_decodes(sim: Simulation, r: int, lane: int, end_s: float) -> None:
    """The lane's decodes are in flight, and through at ``end_s``."""
    run, batch = sim.run[0], sim.lanes[lane]
    log, width = sim.steps[run.num_steps], batch.decodes
    log.end_s = batch.end_s = end_s
    log.prefill_s = 0.0
    log.tokens = log.sequences = log.decodes = batch.tokens = batch.sequences = width
    log.cached = batch.cached
    log.used_blocks = run.kv_blocks - sim.replicas[r].free
    log.lane = lane
    batch.number = run.num_steps
    batch.in_flight = 1
    run.num_steps += 1


def forward_pipeline(sim: Simulation, r: int, until_s: float) -> bool:
    """`fast_forward` of several stages: each batch that is through goes round again at once."""
    replica, run = sim.replicas[r], sim.run[0]
    lane = resting_lane(sim, r)
    if lane < 0:
        return False
    # One token of the budget is left in any batch: without that no admission is looked at.
    arrival_s = quiet_until(sim, r, min(most_decodes(sim, r), run.max_batched_tokens - 1))
    if arrival_s < 0.0:
        return False
    stages, block_mask = run.num_stages, run.block_tokens - 1
    first, most = run.num_steps, 0
    while replica.now_s < until_s and run.num_steps < len(sim.steps):
        batch = sim.lanes[lane]
        crossing = sim.pool[run.phase_at + lane * run.block_tokens + (-batch.step & block_mask)]
        if crossing + run.whole_blocks > replica.free:
            break
        replica.free -= crossing
        most = max(most, batch.decodes)
        end_s = pass_stages(sim, r, lane, replica.now_s)
        log_decodes(sim, r, lane, end_s)
        place = replica.oldest + replica.in_flight
        sim.stages[r * stages + (place if place < stages else place - stages)].flight = lane
        replica.in_flight += 1
        replica.stalled += 1
        lane = sim.stages[r * stages + replica.oldest].flight
        end_s = sim.lanes[lane].end_s + run.host_step_s
        if end_s >= arrival_s or end_s > until_s or not brings_tokens_alone(sim, lane):
            replica.due = 0
            break
        complete(sim, r)
        replica.now_s = replica.seen_s = max(replica.now_s, end_s)
    if run.num_steps == first:
        return False
    count_most(sim, most, run.kv_blocks - replica.free)
    if run.caching:
        evict(sim, r)  # what the steps took
    return True
