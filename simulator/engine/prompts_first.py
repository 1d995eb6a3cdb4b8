"""SGLang's batches: prompts alone before a token of every decode, memory in tokens, admission by estimates.

`sglang_scheduler.py` says what they are. While prompts run the decodes rest: their lane's step, which their
last tokens are found by, counts batches of decodes only (`unfold.py` tells what that means for the logs).
"""

from __future__ import annotations

from servecast.simulator.engine.batching import add_chunk
from servecast.simulator.engine.cohort import retire, start_running, stop_decoding
from servecast.simulator.engine.state import NONE, Simulation
from servecast.simulator.engine.waiting import front, leave_queue, push


def form(sim: Simulation, r: int) -> None:
    """Put prompts into the replica's batch; if there are none, the decodes."""
    replica, batch = sim.replicas[r], sim.lanes[r]
    batch.tokens = batch.sequences = 0
    if replica.num_waiting > 0 or replica.partial >= 0:
        add_prompts(sim, r)
    if batch.tokens > 0:
        batch.paused = 1
        batch.resting, batch.resting_cached = batch.decodes, batch.cached
        batch.decodes = batch.cached = 0
        return
    if batch.decodes > replica.free:
        retract(sim, r)
    elif batch.decodes > 0:
        lower_ratio(sim, r, 1)
    replica.free -= batch.decodes
    batch.tokens = batch.sequences = batch.decodes


def resume(sim: Simulation, r: int) -> None:
    """The prompts are computed, the decodes rest no more."""
    batch = sim.lanes[r]
    batch.paused = 0
    batch.decodes, batch.cached = batch.resting, batch.resting_cached


def lower_ratio(sim: Simulation, r: int, steps: int) -> None:
    """So many steps of decodes found memory: outputs are expected to be shorter."""
    replica, run = sim.replicas[r], sim.run[0]
    while steps > 0 and replica.ratio > run.least_ratio:
        replica.ratio = max(replica.ratio - run.ratio_decay, run.least_ratio)
        steps -= 1


def emitted(sim: Simulation, r: int) -> int:
    """Tokens of all decodes."""
    batch = sim.lanes[r]
    return batch.cached + batch.decodes - sim.replicas[r].tokens_decoding


def still_expected(sim: Simulation, i: int) -> int:
    """The most that waiting request i may emit."""
    request = sim.requests[i]
    return sim.run[0].estimated_tokens - (request.prompt - request.tokens)


def add_prompts(sim: Simulation, r: int) -> None:
    """Chunks of the prompt under way, and of those that fit beside what all are expected to emit."""
    replica, batch, run = sim.replicas[r], sim.lanes[r], sim.run[0]
    left = run.max_batched_tokens
    expected = replica.ratio * (batch.decodes * run.estimated_tokens - emitted(sim, r))
    i = replica.partial
    if i >= 0:
        chunk = min(sim.requests[i].prompt - replica.filled, left, replica.free)
        if chunk > 0:
            replica.free -= chunk
            add_chunk(sim, r, r, i, replica.filled, chunk)
            left -= chunk
        if replica.partial < 0:
            expected += still_expected(sim, i)
    while left > 0 and replica.partial < 0 and replica.num_waiting > 0:
        i = front(sim, r)
        request = sim.requests[i]
        needed = request.prompt + still_expected(sim, i)
        if replica.num_running >= run.max_num_seqs or needed >= replica.free - expected:
            return
        leave_queue(sim, r)
        start_running(sim, r, i)
        chunk = min(request.prompt, left)
        replica.free -= chunk
        if request.scheduled_s != request.scheduled_s:  # NaN: never was
            request.scheduled_s = replica.seen_s
        add_chunk(sim, r, r, i, 0, chunk)
        left -= chunk
        if replica.partial < 0:
            expected += still_expected(sim, i)


def retract(sim: Simulation, r: int) -> None:
    """Those with the fewest tokens wait again until the others have room for some steps."""
    replica, batch, run = sim.replicas[r], sim.lanes[r], sim.run[0]
    while batch.decodes > 1:
        i = fewest_emitted(sim, r)
        kv_tokens = sim.requests[i].base + batch.step
        retire(sim, r, i, kv_tokens, kv_tokens, 1)
        stop_decoding(sim, r, i)
        sim.requests[i].preemptions += 1
        replica.num_preemptions += 1
        push(sim, r, i)
        if replica.free >= batch.decodes * run.retract_steps:
            break
    likely = emitted(sim, r) + batch.decodes * run.retract_steps
    replica.ratio = min(likely / (run.estimated_tokens * batch.decodes), 1.0)


def fewest_emitted(sim: Simulation, r: int) -> int:
    """The decode with the fewest tokens; of equals that with the longest prompt, then who came last."""
    replica, requests, run = sim.replicas[r], sim.requests, sim.run[0]
    first = run.running_at + r * run.max_num_seqs
    best, fewest = NONE, 0
    for k in range(first, first + replica.num_running):
        i = sim.pool[k]
        if i == replica.partial:
            continue
        count = requests[i].base - requests[i].tokens  # and what all have had since
        if best >= 0 and count > fewest:
            continue
        if best >= 0 and count == fewest:
            if requests[i].prompt < requests[best].prompt:
                continue
            equal = requests[i].prompt == requests[best].prompt
            if equal and requests[i].key < requests[best].key:
                continue
        best, fewest = i, count
    return best
