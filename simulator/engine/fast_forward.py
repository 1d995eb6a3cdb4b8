"""The steps in which nothing changes but one more token per decode, in a loop of their own."""

from __future__ import annotations

from servecast.simulator.engine.batching import admissible
from servecast.simulator.engine.prefix_cache import evict
from servecast.simulator.engine.prompts_first import lower_ratio
from servecast.simulator.engine.state import INFINITY, Simulation
from servecast.simulator.engine.step_time import linear_s
from servecast.simulator.engine.waiting import front


def quiet_until(sim: Simulation, r: int) -> float:
    """When the next arrival can change what the replica does, or -1 if something changes now.

    One stage only. A front that does not fit stays so while nobody finishes: free blocks only fall, and in
    key order no arrival overtakes it.
    """
    replica = sim.replicas[r]
    if replica.partial >= 0 or replica.leaving >= 0:
        return -1.0
    run, batch = sim.run[0], sim.lanes[r]
    if run.num_stages > 1 or batch.decodes == 0:
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
    arrival_s = quiet_until(sim, r)
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
    batch.end_s = batch.previous_end_s = sim.stages[r].free_s = end_s
    batch.step, batch.cached, replica.now_s, replica.free = step, cached, now_s, free
    replica.seen_s = seen_s
    if run.caching:
        evict(sim, r)  # what the steps took
    return True
