"""The engine's state, as the plain objects that it is written against.

Compiled, each list of objects is an array of records with the same fields (`compiled.py`). Index -1 is
no request; a time that has not come is NaN.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import NamedTuple

NAN = float("nan")


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
    next_in_replica: int = -1
    base: int = 0  # KV tokens minus the lane's step: constant while it decodes
    last: int = 0  # the lane's step that emits the last token
    link: int = -1  # next on the same calendar day, or among the batch's completed prefills
    position: int = 0  # in the replica's running
    lane: int = 0
    replica: int = 0
    preemptions: int = 0


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
    joined: int = -1  # first of the prefills that complete with this batch


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


@dataclass(slots=True)
class Replica:
    now_s: float = 0.0
    due: int = 0  # a batch may be formed at now_s
    free: int = 0  # KV blocks
    num_running: int = 0
    num_waiting: int = 0  # in the heap
    num_fresh: int = 0  # arrived, never admitted, not in the heap (key order only)
    head: int = -1  # the first of those, or the next to arrive
    next_arrival: int = -1
    first: int = -1
    last: int = -1
    num_assigned: int = 0
    num_finished: int = 0
    num_preemptions: int = 0
    partial: int = -1
    filled: int = 0  # prompt tokens of it that were sent to be computed
    partial_lane: int = -1  # of its last chunk while that is in flight
    in_flight: int = 0
    oldest: int = 0
    stalled: int = 0  # batches since one that emitted a token
    passed_queue: int = -1
    passed_ttft: int = -1
    passed_e2e: int = -1


@dataclass(slots=True)
class Run:
    """Counters of the whole run, and the targets that may end it early."""

    queue_delay_limit_s: float = 0.0
    ttft_limit_s: float = 0.0
    e2e_limit_s: float = 0.0
    tbt_limit_s: float = 0.0
    watching: int = 0
    max_late_queue_delay: int = 0
    max_late_ttft: int = 0
    max_late_e2e: int = 0
    max_late_gaps: int = 0
    late_queue_delay: int = 0
    late_ttft: int = 0
    late_e2e: int = 0
    late_gaps: int = 0
    num_requests: int = 0
    num_routed: int = 0
    num_steps: int = 0
    num_segments: int = 0


class Limits(NamedTuple):
    """`EngineLimits` and the sizes of the pools."""

    max_num_seqs: int
    max_batched_tokens: int
    kv_blocks: int
    block_tokens: int
    block_shift: int
    watermark_blocks: int
    reserve_prompt: int
    stages: int
    days: int  # length of a lane's calendar, a power of two > the longest output
    max_waiting: int
    max_stalled: int
    ordered: int  # keys rise in arrival order
    routed: int  # by the replicas' state


class Tables(NamedTuple):
    """`RuntimeTables`, flattened in C order, with the lengths of the axes."""

    token_s: MutableSequence[float]
    sequence_s: MutableSequence[float]
    prefill_s: MutableSequence[float]
    prefill_base_s: MutableSequence[float]
    decode_s: MutableSequence[float]
    send_s: MutableSequence[float]
    host_step_s: float
    per_context_step: float
    per_chunk_step: float
    per_kv_step: float
    num_tokens: int
    num_sequences: int
    num_contexts: int
    num_chunks: int
    num_kv: int


class Simulation(NamedTuple):
    """All of it. A pool shared by the replicas or lanes has equal parts, one each."""

    run: MutableSequence[Run]  # one
    replicas: MutableSequence[Replica]
    lanes: MutableSequence[Lane]  # [replicas * stages]
    requests: MutableSequence[Request]
    steps: MutableSequence[Step]
    segments: MutableSequence[Segment]
    running: MutableSequence[int]  # [replicas * max_num_seqs]
    waiting: MutableSequence[int]  # [replicas * max_waiting], heaps
    flights: MutableSequence[int]  # [replicas * stages], rings of lanes in flight
    phase: MutableSequence[int]  # [lanes * block_tokens] decodes by block offset
    calendar: MutableSequence[int]  # [lanes * days] first request that finishes in that step
    stage_free_s: MutableSequence[float]  # [replicas * stages]
    chunks_s: MutableSequence[float]  # [stages] attention of the chunks of the batch being formed
    limits: Limits
    tables: Tables
