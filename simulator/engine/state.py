"""The engine's state, as the plain objects that it is written against.

Compiled, each list of objects is an array of records with the same fields. A time that has not come is NaN.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, NamedTuple, cast

NONE = -1  # no request, no lane
TURNED_AWAY, GAVE_UP = 1, 2  # by a full queue; while it waited
PICK, VICTIM, BUDGET = range(3)  # what a function of the user's may decide: see `hooks.py`
NAN = float("nan")
INFINITY = float("inf")


@dataclass(slots=True)
class Request:
    """One request; requests are in arrival order. ``prompt`` is what a prefill must compute: prompt and,
    after a preemption, the tokens emitted before; ``remaining`` tokens are still to come."""

    arrival_s: float = 0.0
    scheduled_s: float = NAN
    first_token_s: float = NAN
    finish_s: float = NAN
    last_token_s: float = NAN  # before the last preemption
    key: int = 0  # smallest is admitted first, largest preempted first; no two are equal
    prompt: int = 0
    remaining: int = 0
    tokens: int = 0  # of the prompt as it was sent
    leaving: int = 0  # KV tokens that it still holds although its last token is out
    loaded: int = 0  # tokens of the prompt whose KV is there when it is admitted
    next_in_replica: int = NONE
    base: int = 0  # KV tokens minus the lane's step: constant while it decodes
    last: int = 0  # the lane's step that emits the last token
    link: int = NONE  # next on the same calendar day, or among the batch's completed prefills
    position: int = 0  # in the replica's running
    lane: int = 0
    joined: int = 0  # the step, of all, that ended its prefill; set where decodes rest for prompts
    replica: int = 0  # before it is sent: where a static rule, or the first choice, sends it
    second_choice: int = 0  # the other replica that is compared, or the session's request before
    preemptions: int = 0
    client: int = 0
    gone: int = 0  # never served: TURNED_AWAY or GAVE_UP


@dataclass(slots=True)
class CachedPrompt:
    """What the prefix cache knows of one request; there are as many as requests, or none at all."""

    path: int = 0  # where its block hashes begin in `Simulation.path`
    num_blocks: int = 0  # full blocks that another prompt has, too; all others are private
    hit: int = 0  # tokens found in the cache when it was first admitted
    admitted: int = 0  # a number that rises with every admission
    private: int = NONE  # the run of its private blocks that it left in the cache when preempted


@dataclass(slots=True)
class Block:
    """An entry of a replica's prefix cache: one block of a prompt, or a run of ``count`` private blocks of
    one request in the free list. The replica's first entry is the ends of that list."""

    hash: int = NONE
    owner: int = NONE  # of a private run that may be read again
    count: int = 1
    references: int = 0  # running requests that hold it; 0: in the free list
    before: int = 0  # in the free list: goes earlier
    after: int = 0
    link: int = NONE  # the next entry in the same bucket, or the next unused one


@dataclass(slots=True)
class Lane:
    """One batch slot of a replica's pipeline: a cohort of decodes and its batch in flight."""

    end_s: float = 0.0
    previous_end_s: float = 0.0
    in_flight: int = 0
    step: int = 0
    decodes: int = 0
    cached: int = 0  # KV tokens of the decodes
    tokens: int = 0
    sequences: int = 0
    joined: int = NONE  # first of the prefills that complete with this batch
    number: int = 0  # of the batch among all steps
    paused: int = 0  # decodes rest for its prompts:
    resting: int = 0  # as many,
    resting_cached: int = 0  # with so many KV tokens


@dataclass(slots=True)
class Step:
    """One batch, as logged."""

    start_s: float = 0.0
    end_s: float = 0.0
    prefill_s: float = 0.0  # attention of the prefill chunks, over all stages
    tokens: int = 0
    sequences: int = 0
    decodes: int = 0
    cached: int = 0
    used_blocks: int = 0
    lane: int = 0


@dataclass(slots=True)
class Segment:
    """Tokens that a request emitted before a preemption: one in each of the lane's steps first..last."""

    request: int = 0
    lane: int = 0
    first: int = 0
    last: int = 0
    joined: int = 0  # as the request's


@dataclass(slots=True)
class Replica:
    now_s: float = 0.0
    seen_s: float = 0.0  # when the next batch is formed, and what it can know of
    due: int = 0  # a batch may be launched at now_s
    leaving: int = NONE  # first of the finished whose blocks the next batch cannot have yet
    free: int = 0  # KV blocks
    evictable: int = 0  # those of them whose contents the prefix cache can still find
    unused: int = NONE  # first cache entry that was used and is not
    num_used: int = 1  # cache entries that ever were, with the ends of the free list
    num_running: int = 0
    num_waiting: int = 0  # in the heap
    num_fresh: int = 0  # arrived, never admitted, not in the heap (key order only)
    chosen: int = NONE  # place of the one that the user's function picked among those in the heap
    head: int = NONE  # the first of those, or the next to arrive
    next_arrival: int = NONE
    first: int = NONE
    last: int = NONE
    num_assigned: int = 0
    num_finished: int = 0
    tokens_assigned: int = 0  # of those requests' prompts
    tokens_finished: int = 0
    known_sent: int = 0  # of either, when the router's knowledge was refreshed
    known_finished: int = 0
    stopped_s: float = -1.0  # when one finished for which the replica had run ahead of the others
    num_preemptions: int = 0
    ratio: float = 0.0  # of a declared output that is expected
    tokens_decoding: int = 0  # of the decodes' prompts as they were sent
    next_key: int = 0  # for who waits next, where that alone orders them
    promised: int = 0  # blocks that the running may come to hold, where outputs are declared
    partial: int = NONE
    filled: int = 0  # prompt tokens of it that were sent to be computed
    partial_lane: int = NONE  # of its last chunk while that is in flight
    in_flight: int = 0
    oldest: int = 0
    stalled: int = 0  # batches since one that emitted a token
    passed_queue: int = NONE
    passed_ttft: int = NONE
    passed_e2e: int = NONE


@dataclass(slots=True)
class Stage:
    """One pipeline stage of a replica, and one entry of the ring of its batches in flight."""

    free_s: float = 0.0
    chunks_s: float = 0.0  # attention of the prefill chunks of the batch that is being formed
    flight: int = 0  # a lane


@dataclass(slots=True)
class Run:
    """The limits, the layout of the shared arrays, the targets that may end the run, its counters."""

    # EngineLimits, and what follows from them
    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    block_tokens: int
    block_rounding: int  # so many KV tokens more, shifted so far, are a request's blocks
    block_shift: int
    watermark_blocks: int
    reserve_prompt: int
    ahead: int  # batches are formed while the one before runs
    num_stages: int
    days: int  # length of a lane's calendar, a power of two > the longest output
    max_waiting: int
    max_stalled: int
    ordered: int  # keys rise in arrival order
    num_requests: int
    # RuntimeTables: lengths of the axes, points per token
    host_step_s: float
    per_context_step: float
    per_chunk_step: float
    per_kv_step: float
    num_tokens: int
    num_sequences: int
    num_contexts: int
    num_chunks: int
    num_kv: int
    num_mixed: int
    # Clients' patience and the place to wait; losing: either has an end
    losing: int = 0
    queue_timeout_s: float = INFINITY
    max_queue: int = 1 << 31
    # The prefix cache; 0: there is none
    caching: int = 0
    num_buckets: int = 0  # a power of two
    blocks_per_hash: int = 1
    max_path: int = 0  # blocks of the longest prompt
    # Rules of other engines: `batch_rules.py`
    ruled: int = 0  # by any but the first of these
    whole_blocks: int = 0  # a prompt's are taken on admission, and one is free for each decode
    whole_prompts: int = 0  # never cut
    growing: int = 1  # decodes need further blocks
    one_batch: int = 0  # requests are admitted where nothing runs
    declared_tokens: int = 0  # of an output: what all may come to hold has to fit
    prompts_first: int = 0  # `prompts_first.py`: decodes rest for prompts
    estimated_tokens: int = 0  # the longest output that may be declared
    first_ratio: float = 0.0  # of it that is expected at first,
    least_ratio: float = 0.0  # at least,
    ratio_decay: float = 0.0  # and less with each step of decodes
    retract_steps: int = 0  # that have room after some were retracted
    # Who sends the requests
    router: int = 0  # one of `dispatch`'s rules
    by_tokens: int = 0  # a load is prompt tokens, not requests
    own: int = 1  # what was sent since the last refresh counts
    stale_s: float = 0.0  # between refreshes
    refreshed_s: float = -1.0
    limit: int = 0  # requests that a replica may have before others wait
    bound_s: float = 0.0  # when the last of the waiting was sent to a replica
    stop_at_finish: int = 0
    forgetting: int = 0  # full logs begin anew
    picking: int = 0  # a function of the user's decides who is admitted,
    choosing_victims: int = 0  # who is preempted,
    budgeting: int = 0  # and how many tokens a batch may have
    hook_failed: int = 0
    pause_s: float = INFINITY  # the next request's arrival where only those before it are there
    concurrency: int = 0  # closed-loop clients; 0: requests arrive by themselves
    client_s: float = 0.0  # from a client's last token to its next request
    # LateTargets
    watching: int = 0
    queue_delay_limit_s: float = INFINITY
    ttft_limit_s: float = INFINITY
    e2e_limit_s: float = INFINITY
    tbt_limit_s: float = INFINITY
    max_late_queue_delay: int = 0
    max_late_ttft: int = 0
    max_late_e2e: int = 0
    max_late_gaps: int = 0
    # Where each part begins: of the pool, of the times
    running_at: int = 0
    waiting_at: int = 0
    candidate_at: int = 0
    phase_at: int = 0
    calendar_at: int = 0
    held_at: int = 0
    place_at: int = 0
    bucket_at: int = 0
    token_at: int = 0
    sequence_at: int = 0
    prefill_at: int = 0
    prefill_base_at: int = 0
    decode_at: int = 0
    send_at: int = 0
    mixed_at: int = 0
    mixed_chunk_at: int = 0
    # Counters
    late_queue_delay: int = 0
    late_ttft: int = 0
    late_e2e: int = 0
    late_gaps: int = 0
    num_routed: int = 0
    num_admitted: int = 0
    num_steps: int = 0
    num_segments: int = 0
    num_gaps: int = 0
    most_tokens: int = 0  # of any step
    most_sequences: int = 0
    most_blocks: int = 0


class Simulation(NamedTuple):
    """All of it. Few arrays, because numba passes each as seven arguments to every function.

    ``pool`` holds, for each replica, running [max_num_seqs] and waiting [max_waiting] (a heap), once for all
    the candidates that a victim is chosen from [max_num_seqs], and for each lane phase [block_tokens]
    (decodes by block offset) and calendar [days] (first request to finish in that step); with a prefix
    cache, for each replica held [max_num_seqs, max_path] (the entries of a running request), place
    [max_num_seqs] (its row there) and bucket [num_buckets] (first entry by hash).
    ``times`` holds the runtime tables, each flattened in C order.
    """

    run: MutableSequence[Run]  # one
    replicas: MutableSequence[Replica]
    lanes: MutableSequence[Lane]  # [replicas * stages]
    stages: MutableSequence[Stage]  # [replicas * stages]
    requests: MutableSequence[Request]
    steps: MutableSequence[Step]
    segments: MutableSequence[Segment]
    gaps: MutableSequence[
        float
    ]  # [segments] between two tokens of a request, around its preemptions
    hooks: MutableSequence[
        Any
    ]  # the user's functions by door; compiled: their addresses, the pool's, the requests'
    pool: MutableSequence[int]
    times: MutableSequence[float]
    prompts: MutableSequence[CachedPrompt]
    blocks: MutableSequence[Block]  # [replicas * (kv_blocks + 1)], or none
    path: MutableSequence[int]  # block hashes of all prompts, numbered from 0


PlainSimulation: Any = make_dataclass("PlainSimulation", Simulation._fields, slots=True)
"""The same for plain Python, which reads the fields of such an object in half the time."""


def changed(sim: Simulation, **parts: Any) -> Simulation:
    """The simulation with other arrays in these places."""
    if isinstance(sim, Simulation):
        return sim._replace(**parts)
    return cast(Simulation, replace(sim, **parts))
