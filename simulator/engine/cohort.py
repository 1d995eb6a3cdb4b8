"""Running requests: who holds blocks, who decodes in which lane, and who is sent back to waiting.

A lane's decodes run in lock-step. Request i holds base + step KV tokens before the lane's step, needs a
block in the steps with base + step = 0 modulo the block size, and emits its last token in step ``last``,
where the lane's calendar (a ring of lists by step) finds it.
"""

from __future__ import annotations

from servecast.simulator.engine.prefix_cache import keep
from servecast.simulator.engine.state import NONE, VICTIM, Simulation
from servecast.simulator.engine.waiting import ask, push, send_next


def blocks_of(sim: Simulation, tokens: int) -> int:
    """That a request with so many KV tokens holds."""
    return tokens + sim.run[0].block_rounding >> sim.run[0].block_shift


def blocks_promised(sim: Simulation, i: int) -> int:
    """That request i may come to hold, where outputs are declared."""
    run = sim.run[0]
    if run.declared_tokens == 0:
        return 0
    return (
        sim.requests[i].tokens + run.declared_tokens - 1 + run.block_tokens - 1 >> run.block_shift
    )


def start_running(sim: Simulation, r: int, i: int) -> None:
    replica, run = sim.replicas[r], sim.run[0]
    sim.requests[i].position = replica.num_running
    sim.pool[run.running_at + r * run.max_num_seqs + replica.num_running] = i
    replica.num_running += 1
    if run.declared_tokens:
        replica.promised += blocks_promised(sim, i)


def retire(sim: Simulation, r: int, i: int, kv_tokens: int, hashed_tokens: int, again: int) -> None:
    """Request i leaves the running ones and gives its blocks back.

    A prefix cache finds those of its first ``hashed_tokens``; again = 1: it waits to run again.
    """
    replica, requests, run = sim.replicas[r], sim.requests, sim.run[0]
    first = run.running_at + r * run.max_num_seqs
    replica.free += kv_tokens + run.block_rounding >> run.block_shift
    replica.num_running -= 1
    if run.declared_tokens:
        replica.promised -= blocks_promised(sim, i)
    if run.caching:
        keep(sim, r, i, hashed_tokens, again)
        place = run.place_at + r * run.max_num_seqs  # its row goes to the next one admitted
        row = sim.pool[place + requests[i].position]
        sim.pool[place + requests[i].position] = sim.pool[place + replica.num_running]
        sim.pool[place + replica.num_running] = row
    moved = sim.pool[first + replica.num_running]
    sim.pool[first + requests[i].position] = moved
    requests[moved].position = requests[i].position


def finish(sim: Simulation, r: int, i: int, kv_tokens: int, end_s: float) -> None:
    request, replica, run = sim.requests[i], sim.replicas[r], sim.run[0]
    request.finish_s = end_s
    replica.num_finished += 1
    replica.tokens_finished += request.tokens
    if run.caching:
        request.leaving = kv_tokens
        leave_in_order(sim, r, i)
    elif run.ahead:
        request.leaving = kv_tokens
        request.link = replica.leaving
        replica.leaving = i
    else:
        retire(sim, r, i, kv_tokens, kv_tokens, 0)
    if run.concurrency > 0:
        send_next(sim, r, end_s + run.client_s)


def leave_in_order(sim: Simulation, r: int, i: int) -> None:
    """Request i leaves behind those who finished with it and were admitted before it."""
    replica, requests, prompts = sim.replicas[r], sim.requests, sim.prompts
    j = replica.leaving
    if j < 0 or prompts[j].admitted > prompts[i].admitted:
        requests[i].link = j
        replica.leaving = i
        return
    while requests[j].link >= 0 and prompts[requests[j].link].admitted < prompts[i].admitted:
        j = requests[j].link
    requests[i].link = requests[j].link
    requests[j].link = i


def release_leaving(sim: Simulation, r: int) -> None:
    """Those that finished in the last batch give their blocks back."""
    replica = sim.replicas[r]
    while replica.leaving >= 0:
        request = sim.requests[replica.leaving]
        if request.leaving > 0:
            retire(sim, r, replica.leaving, request.leaving, request.leaving, 0)
            request.leaving = 0
        replica.leaving = request.link


def join(sim: Simulation, r: int, lane: int, i: int) -> None:
    """Request i got a token from its prefill in the step that ends; it decodes from the next one on."""
    request, batch, run, pool = sim.requests[i], sim.lanes[lane], sim.run[0], sim.pool
    if request.first_token_s != request.first_token_s:  # NaN: never had one
        request.first_token_s = batch.end_s
    else:
        gap_s = batch.end_s - request.last_token_s
        sim.gaps[run.num_gaps] = gap_s
        run.num_gaps += 1
        run.late_gaps += gap_s > run.tbt_limit_s
    request.lane = lane
    request.joined = batch.number
    request.base = request.prompt - batch.step - 1
    request.last = batch.step + request.remaining - 1
    if request.remaining == 1:
        finish(sim, r, i, request.prompt, batch.end_s)
        return
    batch.decodes += 1
    batch.cached += request.prompt
    if run.prompts_first:
        sim.replicas[r].tokens_decoding += request.tokens
    pool[run.phase_at + lane * run.block_tokens + (request.base & (run.block_tokens - 1))] += (
        run.growing
    )
    day = run.calendar_at + lane * run.days + (request.last & (run.days - 1))
    request.link = pool[day]
    pool[day] = i


def strike(sim: Simulation, day: int, i: int) -> None:
    """Take request i off the calendar's day."""
    requests, calendar = sim.requests, sim.pool
    j = calendar[day]
    if j == i:
        calendar[day] = requests[i].link
        return
    while requests[j].link != i:
        j = requests[j].link
    requests[j].link = requests[i].link


def stop_decoding(sim: Simulation, lane: int, i: int) -> None:
    """Request i leaves its cohort; the tokens it emitted become prompt, and are logged."""
    request, batch, run = sim.requests[i], sim.lanes[lane], sim.run[0]
    batch.decodes -= 1
    batch.tokens = batch.sequences = batch.decodes  # of the batch being formed, so far decodes only
    batch.cached -= request.base + batch.step
    if run.prompts_first:  # a replica has one lane
        sim.replicas[lane].tokens_decoding -= request.tokens
    phase = request.base & (run.block_tokens - 1)
    sim.pool[run.phase_at + lane * run.block_tokens + phase] -= run.growing
    strike(sim, run.calendar_at + lane * run.days + (request.last & (run.days - 1)), i)
    segment = sim.segments[run.num_segments]
    run.num_segments += 1
    segment.request = i
    segment.lane = lane
    segment.joined = request.joined
    segment.first = request.prompt - request.base - 1
    segment.last = batch.step - 1
    emitted = batch.step - segment.first
    request.prompt += emitted
    request.remaining -= emitted
    request.last_token_s = batch.end_s


def find_victim(sim: Simulation, r: int) -> int:
    """Of the running requests not in flight the one with the largest key, or that the user's function names;
    or NONE."""
    replica, requests, run = sim.replicas[r], sim.requests, sim.run[0]
    first = run.running_at + r * run.max_num_seqs
    victim, count = NONE, 0
    for k in range(first, first + replica.num_running):
        i = sim.pool[k]
        if i == replica.partial:
            in_flight = replica.partial_lane >= 0
        else:
            in_flight = sim.lanes[requests[i].lane].in_flight == 1
        if in_flight:
            continue
        if run.choosing_victims:
            sim.pool[run.candidate_at + count] = i
            count += 1
        if victim < 0 or requests[i].key > requests[victim].key:
            victim = i
    if count > 1:
        place = ask(sim, VICTIM, run.candidate_at, count, replica.seen_s)
        victim = sim.pool[run.candidate_at + place] if place >= 0 else NONE
    return victim


def hashed_tokens(sim: Simulation, r: int, i: int, kv_tokens: int) -> int:
    """Of a decode's tokens those whose blocks are hashed, if full: a batch in flight adds none that is."""
    replica = sim.replicas[r]
    in_flight = sim.run[0].ahead == 1 and replica.seen_s < replica.now_s
    return max(sim.requests[i].prompt, kv_tokens - 1) if in_flight else kv_tokens


def preempt(sim: Simulation, r: int, held: int) -> bool:
    """Send the victim back to waiting; False if there is none.

    held = 1: decodes already own the block of the batch that is being formed.
    """
    replica, requests = sim.replicas[r], sim.requests
    victim = find_victim(sim, r)
    if victim < 0:
        return False
    if requests[victim].leaving > 0:  # its last token is out: nothing to recompute
        hashed = hashed_tokens(sim, r, victim, requests[victim].leaving)
        retire(sim, r, victim, requests[victim].leaving, hashed, 0)
        requests[victim].leaving = 0
        requests[victim].preemptions += 1
        replica.num_preemptions += 1
        return True
    if victim == replica.partial:
        held_tokens = requests[victim].prompt if sim.run[0].whole_blocks else replica.filled
        retire(sim, r, victim, held_tokens, replica.filled, 1)
        replica.partial = NONE
    else:
        lane = requests[victim].lane
        kv_tokens = requests[victim].base + sim.lanes[lane].step
        hashed = hashed_tokens(sim, r, victim, kv_tokens)
        retire(sim, r, victim, kv_tokens + held, hashed, 1)
        stop_decoding(sim, lane, victim)
    requests[victim].preemptions += 1
    requests[victim].loaded = 0
    replica.num_preemptions += 1
    push(sim, r, victim)
    return True
