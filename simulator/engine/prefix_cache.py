"""A replica's prefix cache, block by block: who holds a block, where it is found, what goes first.

As vLLM has it (0.32, vllm/v1/core/block_pool.py, kv_cache_manager.py, single_type_kv_cache_manager.py):

* A full block is found by the hash of all tokens up to its end, from when its computing is scheduled; of
  equal blocks the oldest. A prompt's last token is always computed, so its block may be there twice.
* A freed block that nothing can find is taken again first; then those that can be found, in the order in
  which they were freed. A request frees its last block first; requests of one step in order of admission.
* What a decode writes nobody else has: only the request itself, preempted, finds those blocks again.

What nobody else can find is only counted: ``free - evictable`` blocks, and a request's private blocks, those
that no other prompt has, as one entry with a count. Shared ones are an entry each. The free list of the
entries is a ring through the replica's first one; buckets find an entry by its hash.
"""

from __future__ import annotations

from servecast.simulator.engine.state import NONE, Simulation


def evict(sim: Simulation, r: int) -> None:
    """Forget what was freed longest ago, as many blocks as were taken of those that could be found.

    Whoever takes free blocks calls it: those that nothing can find went first.
    """
    replica, blocks = sim.replicas[r], sim.blocks
    ends = r * (sim.run[0].kv_blocks + 1)
    while replica.evictable > replica.free:
        e = blocks[ends].after
        gone = min(blocks[e].count, replica.evictable - replica.free)
        blocks[e].count -= gone
        replica.evictable -= gone
        if blocks[e].count == 0:
            unlink(sim, e)
            forget(sim, r, e)


def unlink(sim: Simulation, e: int) -> None:
    """Take an entry out of the free list."""
    before, after = sim.blocks[e].before, sim.blocks[e].after
    sim.blocks[before].after = after
    sim.blocks[after].before = before


def append(sim: Simulation, r: int, e: int) -> None:
    """Put an entry at the free list's end: it goes last."""
    blocks, ends = sim.blocks, r * (sim.run[0].kv_blocks + 1)
    last = blocks[ends].before
    blocks[e].before = last
    blocks[e].after = ends
    blocks[last].after = e
    blocks[ends].before = e
    sim.replicas[r].evictable += blocks[e].count


def bucket_of(sim: Simulation, r: int, block_hash: int) -> int:
    run = sim.run[0]
    return run.bucket_at + r * run.num_buckets + (block_hash & (run.num_buckets - 1))


def new_entry(sim: Simulation, r: int, block_hash: int, count: int) -> int:
    """An entry with a hash, behind those in its bucket, or a private run."""
    replica, blocks = sim.replicas[r], sim.blocks
    e = replica.unused
    if e >= 0:
        replica.unused = blocks[e].link
    else:
        e = r * (sim.run[0].kv_blocks + 1) + replica.num_used
        replica.num_used += 1
    blocks[e].hash = block_hash
    blocks[e].owner = NONE
    blocks[e].count = count
    blocks[e].references = 1
    blocks[e].link = NONE
    if block_hash >= 0:
        bucket = bucket_of(sim, r, block_hash)
        last = sim.pool[bucket]
        if last < 0:
            sim.pool[bucket] = e
            return e
        while blocks[last].link >= 0:
            last = blocks[last].link
        blocks[last].link = e
    return e


def forget(sim: Simulation, r: int, e: int) -> None:
    """Nothing finds this entry any more; it can be used again."""
    blocks, replica = sim.blocks, sim.replicas[r]
    if blocks[e].hash >= 0:
        bucket = bucket_of(sim, r, blocks[e].hash)
        other = sim.pool[bucket]
        if other == e:
            sim.pool[bucket] = blocks[e].link
        else:
            while blocks[other].link != e:
                other = blocks[other].link
            blocks[other].link = blocks[e].link
    elif blocks[e].owner >= 0:
        sim.prompts[blocks[e].owner].private = NONE
    blocks[e].link = replica.unused
    replica.unused = e


def hash_of(sim: Simulation, i: int, k: int) -> int:
    """Of block k of request i's prompt."""
    first, each = sim.prompts[i].path, sim.run[0].blocks_per_hash
    if each == 1:
        return sim.path[first + k]
    return sim.path[first + k // each] * each + k % each


def held_row(sim: Simulation, r: int, position: int) -> int:
    """Where the entries are that the running request at this position holds."""
    run = sim.run[0]
    return run.held_at + sim.pool[run.place_at + r * run.max_num_seqs + position] * run.max_path


def look_up(sim: Simulation, r: int, i: int) -> int:
    """Set what of waiting request i is cached; how many blocks of it running requests hold already."""
    run, request, prompt = sim.run[0], sim.requests[i], sim.prompts[i]
    row = held_row(sim, r, sim.replicas[r].num_running)
    most = min((request.prompt - 1) >> run.block_shift, prompt.num_blocks)
    shared = k = 0
    while k < most:
        block_hash = hash_of(sim, i, k)
        e = sim.pool[bucket_of(sim, r, block_hash)]
        while e >= 0 and sim.blocks[e].hash != block_hash:
            e = sim.blocks[e].link
        if e < 0:
            break
        if sim.blocks[e].references > 0:
            shared += 1
        sim.pool[row + k] = e
        k += 1
    if k == prompt.num_blocks and prompt.private >= 0:
        k += sim.blocks[prompt.private].count
    request.loaded = k << run.block_shift
    return shared


def adopt(sim: Simulation, r: int, i: int) -> int:
    """Request i, just admitted, holds what `look_up` found for it: how many blocks."""
    replica, prompt, blocks = sim.replicas[r], sim.prompts[i], sim.blocks
    row = held_row(sim, r, sim.requests[i].position)
    hits = sim.requests[i].loaded >> sim.run[0].block_shift
    for k in range(min(hits, prompt.num_blocks)):
        e = sim.pool[row + k]
        if blocks[e].references == 0:
            unlink(sim, e)
            replica.free -= 1
            replica.evictable -= 1
        blocks[e].references += 1
    if hits > prompt.num_blocks:
        e = prompt.private
        unlink(sim, e)
        replica.free -= blocks[e].count
        replica.evictable -= blocks[e].count
        forget(sim, r, e)
    prompt.admitted = sim.run[0].num_admitted
    sim.run[0].num_admitted += 1
    if sim.requests[i].preemptions == 0:
        prompt.hit = sim.requests[i].loaded
    return hits


def remember(sim: Simulation, r: int, i: int, context: int, chunk: int) -> None:
    """The prompt blocks that this chunk fills can be found from now on."""
    shift = sim.run[0].block_shift
    row = held_row(sim, r, sim.requests[i].position)
    full = min((context + chunk) >> shift, sim.prompts[i].num_blocks)
    for k in range(context >> shift, full):
        sim.pool[row + k] = new_entry(sim, r, hash_of(sim, i, k), 1)


def keep(sim: Simulation, r: int, i: int, hashed_tokens: int, again: int) -> None:
    """Request i, whose blocks were just counted as free, leaves those of so many tokens to be found.

    again = 1: it was preempted, and may come back to its private ones.
    """
    replica, prompt, blocks = sim.replicas[r], sim.prompts[i], sim.blocks
    row = held_row(sim, r, sim.requests[i].position)
    full = hashed_tokens >> sim.run[0].block_shift
    if full > prompt.num_blocks:
        e = new_entry(sim, r, NONE, full - prompt.num_blocks)
        append(sim, r, e)
        if again:
            blocks[e].owner = i
            prompt.private = e
    for k in range(min(full, prompt.num_blocks) - 1, -1, -1):
        e = sim.pool[row + k]
        blocks[e].references -= 1
        if blocks[e].references == 0:
            append(sim, r, e)
        else:
            replica.free -= 1
