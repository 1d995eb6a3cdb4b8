"""A batch on its way: launched down the pipeline, and processed by the host when it is through."""

from __future__ import annotations

from servecast.simulator.engine.cohort import finish, join, release_leaving
from servecast.simulator.engine.prompts_first import resume
from servecast.simulator.engine.state import NONE, Simulation
from servecast.simulator.engine.step_time import send_s, stage_s


def launch(sim: Simulation, r: int, lane: int) -> None:
    """Send the lane's batch down the pipeline and log it."""
    replica, batch, run = sim.replicas[r], sim.lanes[lane], sim.run[0]
    step = sim.steps[run.num_steps]
    batch.number = run.num_steps
    run.num_steps += 1
    stages = run.num_stages
    at_s = replica.now_s
    if replica.seen_s < at_s:  # formed ahead: the host had the last step's time for it
        at_s = max(at_s, replica.seen_s + run.host_step_s)
    clock = sim.stages[r * stages]
    at_s = clock.free_s if clock.free_s > at_s else at_s
    step.start_s = at_s
    prefill_s = clock.chunks_s
    at_s += stage_s(sim, batch, 0, prefill_s)
    clock.free_s, clock.chunks_s = at_s, 0.0
    if stages > 1:
        for stage in range(1, stages):
            clock = sim.stages[r * stages + stage]
            at_s = max(at_s + send_s(sim, stage - 1, batch.tokens), clock.free_s)
            at_s += stage_s(sim, batch, stage, clock.chunks_s)
            prefill_s += clock.chunks_s
            clock.free_s, clock.chunks_s = at_s, 0.0
        place = (replica.oldest + replica.in_flight) % stages
        sim.stages[r * stages + place].flight = lane
    batch.end_s = at_s
    if run.ahead:
        replica.seen_s = step.start_s  # the next batch is formed when this one starts
    step.end_s = at_s
    step.prefill_s = prefill_s
    step.tokens = batch.tokens
    step.sequences = batch.sequences
    step.decodes = batch.decodes
    step.cached = batch.cached
    step.used_blocks = run.kv_blocks - replica.free
    run.most_tokens = max(run.most_tokens, batch.tokens)
    run.most_sequences = max(run.most_sequences, batch.sequences)
    run.most_blocks = max(run.most_blocks, run.kv_blocks - replica.free)
    step.lane = lane
    batch.in_flight = 1
    replica.in_flight += 1
    replica.stalled += 1


def complete(sim: Simulation, r: int) -> None:
    """The oldest batch in flight is processed: its tokens are out, the last ones free their blocks."""
    replica, run = sim.replicas[r], sim.run[0]
    lane = r
    if run.num_stages > 1:
        lane = sim.stages[r * run.num_stages + replica.oldest].flight
        replica.oldest = (replica.oldest + 1) % run.num_stages
    batch = sim.lanes[lane]
    replica.in_flight -= 1
    batch.in_flight = 0
    if replica.partial_lane == lane:
        replica.partial_lane = NONE
    if batch.decodes > 0:
        replica.stalled = 0
        batch.cached += batch.decodes
        if batch.end_s - batch.previous_end_s > run.tbt_limit_s:
            run.late_gaps += batch.decodes
    batch.previous_end_s = batch.end_s
    if batch.paused:
        resume(sim, r)
        batch.step -= 1  # none of the decodes'
    else:
        day = run.calendar_at + lane * run.days + (batch.step & (run.days - 1))
        if sim.pool[day] >= 0:
            end_decodes(sim, r, lane, day)
    i = batch.joined
    if i >= 0:
        replica.stalled = 0
        batch.joined = NONE
    while i >= 0:
        following = sim.requests[i].link  # before join puts it on the calendar
        join(sim, r, lane, i)
        i = following
    batch.step += 1
    if run.caching and run.ahead == 0:
        release_leaving(sim, r)


def end_decodes(sim: Simulation, r: int, lane: int, day: int) -> None:
    """Take out those who got their last token in this step of the lane: on this day of its calendar."""
    batch, run = sim.lanes[lane], sim.run[0]
    i = sim.pool[day]
    sim.pool[day] = NONE
    while i >= 0:
        request = sim.requests[i]
        kv_tokens = request.base + batch.step + 1
        batch.decodes -= 1
        batch.cached -= kv_tokens
        phase = request.base & (run.block_tokens - 1)
        sim.pool[run.phase_at + lane * run.block_tokens + phase] -= run.growing
        if run.prompts_first:
            sim.replicas[r].tokens_decoding -= request.tokens
        following = request.link  # before finish needs it
        finish(sim, r, i, kv_tokens, batch.end_s)
        i = following
