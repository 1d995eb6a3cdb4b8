"""Random small simulations in which limits collide, and what must hold after any of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servecast.estimator.tables import SOURCES, RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.orders import ORDERS
from servecast.simulator.engine.picks import PICKS
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.reference.reference import ReferenceRun
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

ROUTERS_TO_TRY = (
    "round_robin",
    "random",
    "least_outstanding",
    "least_tokens",
    "power_of_two",
    "session_sticky",
    "least_outstanding:stale_s=7",
    "least_tokens:stale_s=5,own=0",
    "deferred",
    "deferred:limit=2",
)


def tables_of(
    stages: int = 1,
    *,
    max_batched_tokens: int = 64,
    max_num_seqs: int = 32,
    per_token_s: float = 1.0,
    host_step_s: float = 0.0,
    rng: np.random.Generator | None = None,
) -> RuntimeTables:
    """A step takes ``per_token_s`` per token and nothing else; with an rng, everything costs something."""

    def grid(*shape: int) -> np.ndarray:
        return rng.exponential(0.3, shape) if rng else np.zeros(shape)

    tokens = np.arange(max_batched_tokens + 1.0) * per_token_s
    shares = np.zeros(5)
    points = np.array([2.0, 5.0, 12.0])[: rng.integers(4) if rng else 0]  # of mixed launches
    return RuntimeTables(
        token_s=tokens + grid(stages, len(tokens)),
        sequence_s=grid(stages, max_num_seqs + 1),
        prefill_s=grid(stages, 9, 5).cumsum(1).cumsum(2),  # rises, so beyond the grid too
        prefill_base_s=grid(stages),
        decode_s=grid(stages, max_num_seqs + 1, 7).cumsum(2),
        send_s=grid(stages, len(tokens)),
        host_step_s=float(rng.choice([0.0, 0.1, 9.0])) if rng else host_step_s,
        context_step_tokens=7,
        chunk_step_tokens=5,
        kv_step_tokens=11,
        token_shares=np.tile(shares, (len(tokens), 1)),
        sequence_shares=shares,
        prefill_shares=shares,
        decode_shares=shares,
        mixed_s=grid(stages, len(points), max_num_seqs + 1, 7).cumsum(3),
        mixed_chunk_tokens=points,
    )


def even_tables(
    num_tokens: int, sequences: int, step_s: float = 0.01, token_s: float = 0.0002, stages: int = 1
) -> RuntimeTables:
    """Every step takes ``step_s`` and ``token_s`` more for each token; attention is free."""
    tokens = np.arange(num_tokens + 1.0)
    token_row = np.tile(np.where(tokens > 0, step_s + token_s * tokens, 0.0), (stages, 1))
    shares = np.zeros((2, len(SOURCES)))
    return RuntimeTables(
        token_s=token_row,
        sequence_s=np.zeros((stages, sequences + 1)),
        prefill_s=np.zeros((stages, 2, 2)),
        prefill_base_s=np.zeros(stages),
        decode_s=np.zeros((stages, sequences + 1, 2)),
        send_s=np.zeros_like(token_row),
        host_step_s=0.0,
        context_step_tokens=1000,
        chunk_step_tokens=64,
        kv_step_tokens=10_000,
        token_shares=np.zeros((len(tokens), len(SOURCES))),
        sequence_shares=shares[0],
        prefill_shares=shares,
        decode_shares=shares,
    )


def workload_of(*rows: tuple[float, int, int]) -> Workload:
    """Rows of (arrival_s, prompt_tokens, output_tokens)."""
    arrival_s, prompt, output = zip(*rows, strict=True)
    return Workload("rows", np.array(arrival_s, float), np.array(prompt), np.array(output))


def random_case(seed: int, stages: int | None = None) -> tuple[Workload, Fleet]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    longest = int(rng.choice([6, 20, 60]))
    prompt = rng.integers(1, longest + 1, n)
    output = rng.integers(1, int(rng.choice([2, 10, 40])) + 1, n)
    gap_s = rng.choice([0.0, 2.0, 10.0])
    # Whole seconds, so that arrivals fall on step ends and on each other.
    arrival_s = np.cumsum(np.floor(rng.exponential(gap_s, n))) if gap_s else np.zeros(n)
    block_tokens = int(rng.choice([1, 2, 4, 16]))
    largest = -(-int((prompt + output).max() - 1) // block_tokens)
    seqs = int(rng.integers(1, 13))
    limits = EngineLimits(
        max_num_seqs=seqs,
        max_batched_tokens=int(rng.integers(seqs, 33)),
        kv_blocks=max(1, int(largest * rng.choice([0.7, 1.0, 1.2, 2.0, 5.0]))),
        block_tokens=block_tokens,
        watermark_blocks=int(rng.choice([0, 0, 1, 3])),
        reserve_prompt=bool(rng.random() < 0.3),
    )
    stages = stages or int(rng.integers(1, 5))
    limits = replace(
        limits,
        async_scheduling=stages == 1 and seed % 2 == 1,
        prefix_caching=bool(seed % 5 < 2),
    )
    integral = rng.random() < 0.3
    tables = tables_of(stages, rng=None if integral else rng)
    replicas = int(rng.choice([1, 1, 1, 2, 4]))
    router, policy = str(rng.choice(ROUTERS_TO_TRY)), str(rng.choice([*ORDERS, *PICKS]))
    if limits.async_scheduling and router.startswith("deferred"):
        router = "least_outstanding"
    labels = {name: rng.integers(0, 3, n) for name in ("priority", "session")}
    workload = Workload(f"seed {seed}", arrival_s, prompt, output, **labels)
    return workload, Fleet(tables, limits, replicas, router, policy)


def prefix_case(seed: int, stages: int | None = None) -> tuple[Workload, Fleet]:
    """A random case whose prompts share prefixes: some of one of a few texts, then tokens of their own."""
    workload, fleet = random_case(seed, stages)
    rng = np.random.default_rng([seed, 1])
    ours = fleet.limits.block_tokens
    theirs = int(ours * rng.choice([1, 1, 2, 3])) if rng.random() < 0.8 else max(1, ours // 2)
    sizes = -(-workload.prompt_tokens // theirs)
    texts, most = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    ids: list[int] = []
    for i, size in enumerate(sizes.tolist()):
        common = min(size, int(rng.integers(0, most + 1)))
        text = 1000 * int(rng.integers(0, texts))
        ids += range(text, text + common)
        ids += range(10_000 + 100 * i, 10_000 + 100 * i + size - common)
    prefix = PrefixBlocks(theirs, np.concatenate(([0], np.cumsum(sizes))), np.array(ids))
    limits = replace(fleet.limits, prefix_caching=None)
    return replace(workload, prefix=prefix), replace(fleet, limits=limits)


def impatient_case(seed: int) -> tuple[Workload, Fleet]:
    """A random case with little place to wait and clients that give up."""
    workload, fleet = prefix_case(seed) if seed % 3 else random_case(seed)
    rng = np.random.default_rng([seed, 2])
    limits = replace(
        fleet.limits,
        max_queue=[None, 1, 2, 5][rng.integers(4)],
        queue_timeout_s=[None, 0.0, 3.0, 20.0][rng.integers(4)],
    )
    return workload, replace(fleet, limits=limits, router="random")


def check_invariants(records: Records) -> None:
    """Laws of every run that was not given up."""
    served = ~records.rejected
    assert np.array_equal(records.finished, served)
    assert (records.arrival_s <= records.scheduled_s)[served].all()
    assert (records.scheduled_s <= records.first_token_s)[served].all()
    assert (records.first_token_s <= records.finish_s)[served].all()
    assert (records.steps["used_blocks"] <= records.kv_blocks).all()
    assert (records.steps["used_blocks"] > 0).all()
    assert (records.start_s <= records.end_s).all()
    for replica in range(records.replicas):
        mine = records.steps[records.lane // records.stages == replica]
        assert (np.diff(mine["start_s"]) >= 0).all()
        assert (np.diff(mine["end_s"]) >= 0).all()
    for times, tokens in zip(records.token_times(), records.output_tokens, strict=True):
        assert len(times) in (0, tokens)
        assert (np.diff(times) >= 0).all()


def same(one: Records, other: Records) -> bool:
    """Equal in every field of every request and step; NaN equals NaN."""
    pairs = ((one.requests, other.requests), (one.steps, other.steps))
    return all(
        np.array_equal(a[name], b[name], equal_nan=True) for a, b in pairs for name in a.dtype.names
    )


def same_outcome(one: Records, other: Records) -> bool:
    """Equal token times, preemptions, and steps but for their slots; NaN equals NaN."""
    steps = [name for name in one.steps.dtype.names if name not in ("lane", "prefill_s")]
    times = ("scheduled_s", "first_token_s", "finish_s", "preemptions", "replica")
    return (
        all(np.array_equal(one.requests[n], other.requests[n], equal_nan=True) for n in times)
        and all(np.array_equal(by_replica(one)[n], by_replica(other)[n]) for n in steps)
        and all(map(np.array_equal, one.token_times(), other.token_times()))
    )


def by_replica(records: Records) -> np.ndarray:
    """The steps of one replica after the other."""
    return records.steps[np.argsort(records.lane // records.stages, kind="stable")]


def same_as_reference(records: Records, reference: ReferenceRun) -> bool:
    """Equal token times, preemptions and replica of every request, and every step; NaN equals NaN."""
    rejected = [request is None or bool(request.gone) for request in reference.requests]
    if records.rejected.tolist() != rejected:
        return False
    for times, row, request in zip(
        records.token_times(), records.requests, reference.requests, strict=True
    ):
        ours = [row[name] for name in ("arrival_s", "scheduled_s", "preemptions", "replica")]
        if request is None:
            continue
        theirs = [request.arrival_s, request.scheduled_s, request.preemptions, request.replica]
        if times.tolist() != request.token_s or not np.array_equal(ours, theirs, equal_nan=True):
            return False
    names = ("start_s", "end_s", "tokens", "sequences", "decodes", "cached", "used_blocks")
    steps = [[getattr(s, name) for name in names] for s in reference.steps]
    order = np.argsort([s.replica for s in reference.steps], kind="stable")
    ours = [by_replica(records)[name] for name in names]
    return np.array_equal(np.transpose(ours), np.reshape(steps, (-1, len(names)))[order])
