"""Forming a batch by vLLM v1's rules: decodes, the partial prefill, admissions if nothing was preempted."""

from __future__ import annotations

from servecast.simulator.engine.cohort import blocks_of, blocks_promised, preempt, start_running
from servecast.simulator.engine.prefix_cache import adopt, evict, look_up, remember
from servecast.simulator.engine.state import NONE, Simulation
from servecast.simulator.engine.step_time import prefill_s
from servecast.simulator.engine.waiting import call_budget, front, leave_queue, lose_impatient


def free_lane(sim: Simulation, r: int) -> int:
    """A lane with nothing in flight; the one with decodes, if there is one."""
    stages = sim.run[0].num_stages
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


def add_chunk(sim: Simulation, r: int, lane: int, i: int, context: int, chunk: int) -> None:
    """Put a prefill chunk, whose blocks were taken, into the lane's batch; what is left of the prompt makes
    it the partial."""
    replica, batch, request, run = sim.replicas[r], sim.lanes[lane], sim.requests[i], sim.run[0]
    batch.tokens += chunk
    batch.sequences += 1
    stages = run.num_stages
    sim.stages[r * stages].chunks_s += prefill_s(sim, 0, context, chunk)
    if stages > 1:
        for stage in range(1, stages):
            sim.stages[r * stages + stage].chunks_s += prefill_s(sim, stage, context, chunk)
    request.lane = lane
    if run.caching:
        evict(sim, r)
        remember(sim, r, i, context, chunk)
    if context + chunk < request.prompt:
        replica.partial = i
        replica.filled = context + chunk
        replica.partial_lane = lane
    else:
        replica.partial = NONE
        request.link = batch.joined
        batch.joined = i


def short_of_blocks(sim: Simulation, r: int, lane: int, needed: int) -> bool:
    """Whether decodes that need so many blocks have too few. With ``whole_blocks`` one has to be free for
    each in its turn, though it needs none; the last one's turn decides."""
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    if needed != replica.free or run.whole_blocks == 0 or batch.decodes == 0:
        return needed > replica.free
    first, last = run.running_at + r * run.max_num_seqs, NONE
    for k in range(first, first + replica.num_running):
        i = sim.pool[k]
        if i != replica.partial and (last < 0 or sim.requests[i].key > sim.requests[last].key):
            last = i
    return (sim.requests[last].base + batch.step) & (run.block_tokens - 1) != 0


def take_decodes(sim: Simulation, r: int, lane: int) -> None:
    """Start the batch with the lane's decodes, preempting until their blocks suffice.

    Evicting whenever one decode after the other finds no block ends with the fewest victims whose going
    leaves enough for those who stay; so does this.
    """
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    crossing = run.phase_at + lane * run.block_tokens + (-batch.step & (run.block_tokens - 1))
    while sim.pool[crossing] >= replica.free and short_of_blocks(sim, r, lane, sim.pool[crossing]):
        if not preempt(sim, r, 0):
            break  # the user's function failed: the run ends
    else:
        replica.free -= sim.pool[crossing]
        if run.caching:
            evict(sim, r)
    batch.tokens = batch.sequences = batch.decodes


def token_budget(sim: Simulation, r: int, lane: int) -> int:
    """The most tokens of the batch, which has its decodes; at least those, and one."""
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    waiting = replica.num_waiting + replica.num_fresh
    if replica.partial < 0 and waiting == 0:
        return run.max_batched_tokens
    tokens = call_budget(sim, batch.decodes, batch.cached, waiting, replica.seen_s)
    if tokens < 0:
        run.hook_failed = 1
    return min(max(tokens, batch.decodes, 1), run.max_batched_tokens)


def continue_partial(sim: Simulation, r: int, lane: int, budget: int) -> bool:
    """Give the partial prefill its next chunk; False if memory was short."""
    replica, run = sim.replicas[r], sim.run[0]
    i = replica.partial
    left = budget - sim.lanes[lane].tokens
    filled, rounding = replica.filled, run.block_tokens - 1
    chunk = sim.requests[i].prompt - filled
    if chunk > left:
        chunk = left
    if chunk == 0:
        return True
    need = (filled + chunk + rounding >> run.block_shift) - (filled + rounding >> run.block_shift)
    if run.whole_blocks:
        need = 0
    while need > replica.free:
        if not preempt(sim, r, 1) or replica.partial < 0:
            return False
    replica.free -= need
    add_chunk(sim, r, lane, i, filled, chunk)
    return True


def admissible(sim: Simulation, r: int, left: int) -> int:
    """The waiting request that may be admitted with this much budget left, or NONE."""
    replica, run = sim.replicas[r], sim.run[0]
    if replica.num_waiting == 0 and replica.num_fresh == 0:
        return NONE
    if left <= 0 or replica.num_running >= run.max_num_seqs:
        return NONE
    i = front(sim, r)
    if i < 0:
        return NONE
    if run.ruled and not allowed(sim, r, i, left):
        return NONE
    free = replica.free
    if run.caching:
        free += look_up(sim, r, i)
    tokens = sim.requests[i].prompt
    if run.reserve_prompt == 0:
        tokens = min(tokens, sim.requests[i].loaded + left)
    if replica.num_running > 0 or run.whole_blocks:
        free -= run.watermark_blocks
    return i if tokens + run.block_rounding >> run.block_shift <= free else NONE


def allowed(sim: Simulation, r: int, i: int, left: int) -> bool:
    """What other engines' rules say to admitting request i now, besides the blocks that it needs now."""
    replica, run = sim.replicas[r], sim.run[0]
    if run.one_batch and sim.lanes[r].decodes > 0:
        return False
    if run.whole_prompts and sim.requests[i].prompt > left:
        return False
    return replica.promised + blocks_promised(sim, i) <= run.kv_blocks


def admit(sim: Simulation, r: int, lane: int, budget: int) -> None:
    """Move waiting requests into the lane's batch while budget, sequences and blocks allow."""
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    left = budget - batch.tokens
    while left > 0:
        if run.losing and replica.num_running < run.max_num_seqs:
            lose_impatient(sim, r)
        i = admissible(sim, r, left)
        if i < 0:
            return
        request = sim.requests[i]
        leave_queue(sim, r)
        start_running(sim, r, i)
        loaded = request.loaded
        chunk = request.prompt - loaded
        if chunk > left:
            chunk = left
        held = adopt(sim, r, i) if run.caching else 0
        replica.free += held - blocks_of(
            sim, request.prompt if run.whole_blocks else loaded + chunk
        )
        if request.scheduled_s != request.scheduled_s:  # NaN: never was
            request.scheduled_s = replica.seen_s
        add_chunk(sim, r, lane, i, loaded, chunk)
        left -= chunk
