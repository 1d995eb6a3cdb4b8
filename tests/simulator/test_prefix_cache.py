"""The prefix cache against the reference and schedules worked by hand; test_vllm_fidelity has vLLM's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_cases import check_invariants, prefix_case, tables_of, workload_of
from test_engine import assert_equal, times

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.prefix_path import chained, prefix_blocks
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.metrics.metrics import value
from servecast.simulator.reference.reference import simulate_reference
from servecast.simulator.traffic.traces import read_trace
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

CASES = 450


def test_every_time_and_every_hit_equals_the_reference() -> None:
    compiled, interpreted = Engine(), Engine(compiled=False)
    hits = evictions = 0
    for seed in range(CASES):
        workload, fleet = prefix_case(seed)
        reference = simulate_reference(workload, fleet)
        found = [request.hit if request else 0 for request in reference.requests]
        for engine in (compiled, interpreted) if seed % 5 == 0 else (compiled,):
            records = engine.run(workload, fleet)
            assert_equal(records, reference)
            assert records.prefix_hit_tokens is not None
            assert records.prefix_hit_tokens.tolist() == found
            check_invariants(records)
        hits += any(found)
        evictions += records.preemptions.any()
    assert hits > CASES // 2
    assert evictions > CASES // 4


def prompts(*rows: tuple[float, int, list[int]], theirs: int = 4) -> Workload:
    """Rows of (arrival_s, output_tokens, ids of the prompt's whole blocks)."""
    ids = np.array([block for _, _, blocks in rows for block in blocks], np.int64)
    offsets = np.concatenate(([0], np.cumsum([len(blocks) for _, _, blocks in rows])))
    plain = workload_of(*((at, theirs * len(blocks), output) for at, output, blocks in rows))
    return replace(plain, prefix=PrefixBlocks(theirs, offsets, ids))


def run(workload: Workload, kv_blocks: int = 100, **limits: int) -> Records:
    """One second a token, blocks of four."""
    asked = EngineLimits(
        **{"max_num_seqs": 8, "max_batched_tokens": 32, "block_tokens": 4, **limits},
        kv_blocks=kv_blocks,
    )
    return simulate(workload, Fleet(tables_of(), asked), compiled=False)


def hit_tokens(records: Records) -> list[int]:
    assert records.prefix_hit_tokens is not None
    return records.prefix_hit_tokens.tolist()


def test_whole_blocks_from_the_beginning_are_hit_until_one_is_new() -> None:
    """0-12: twelve tokens. 20-24: four that are new, behind eight. 30-42: equal blocks, unequal before."""
    records = run(prompts((0, 1, [1, 2, 3]), (20, 1, [1, 2, 9]), (30, 1, [8, 2, 3])))
    assert hit_tokens(records) == [0, 8, 0]
    assert times(records) == [[12], [24], [42]]


def test_a_prompts_last_token_is_always_computed() -> None:
    """The same two blocks again: the first is hit, and the second computed to get the next token."""
    assert hit_tokens(run(prompts((0, 1, [1, 2]), (20, 1, [1, 2])))) == [0, 4]


def test_requests_of_one_batch_share_what_the_first_of_them_computes() -> None:
    """Two blocks of A's and one more of B's: 12 tokens, and the shared blocks are held once."""
    records = run(prompts((0, 1, [1, 2]), (0, 1, [1, 2, 3])))
    assert hit_tokens(records) == [0, 8]
    assert times(records) == [[12], [12]]
    assert records.used_blocks.tolist() == [3]


def test_without_prefix_caching_everything_is_computed() -> None:
    records = run(prompts((0, 1, [1, 2]), (20, 1, [1, 2])), prefix_caching=False)
    assert records.prefix_hit_tokens is None
    assert times(records) == [[8], [28]]


def test_a_full_cache_loses_first_what_was_freed_first_and_of_it_the_end() -> None:
    """Four blocks. A leaves 1, 2, 3; B takes the empty one and 3; C finds 1 and 2, and takes both of B's.
    With a block more B takes none of A's, and C only 3 and 6."""
    rows = ((0, 1, [1, 2, 3]), (20, 1, [5, 6]), (40, 1, [1, 2, 8, 9]), (60, 1, [5, 6]))
    assert hit_tokens(run(prompts(*rows), kv_blocks=4)) == [0, 0, 8, 0]
    assert hit_tokens(run(prompts(*rows), kv_blocks=5)) == [0, 0, 8, 4]


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    """Four blocks of one token. A and B, two tokens each, 0-4. 4: two blocks needed, none free: B goes. A
    takes B's last block, 4-5, and is done. 5-7: B has its first block yet, and computes the other two."""
    workload = prompts((0, 2, [1, 2]), (0, 2, [3, 4]), theirs=1)
    records = run(workload, kv_blocks=4, block_tokens=1)
    assert records.preemptions.tolist() == [0, 1]
    assert times(records) == [[4, 5], [4, 7]]
    cold = replace(workload, prefix=None)
    assert times(run(cold, kv_blocks=4, block_tokens=1)) == [[4, 5], [4, 8]]


@pytest.mark.parametrize("theirs", [2, 4, 8, 24])
def test_the_traces_blocks_may_be_smaller_or_larger_than_the_engines(theirs: int) -> None:
    """24 tokens, the same again, and again with the last eight (or all) of them others."""
    blocks = 24 // theirs
    other = [*range(-(-16 // theirs)), *range(50, 50 + 8 // theirs)] if theirs < 24 else [50]
    rows = ((0, 1, [*range(blocks)]), (30, 1, [*range(blocks)]), (60, 1, other))
    assert hit_tokens(run(prompts(*rows, theirs=theirs))) == [0, 20, 16 if theirs < 24 else 0]


def test_block_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^rows: block_tokens 4 and the trace's block hashes of 6 tokens: one must"
    ):
        run(prompts((0, 1, [1, 2]), theirs=6))


def test_token_ids_give_the_blocks_that_they_fill() -> None:
    prefix = prefix_blocks([[7, 7, 8, 8, 9], [7, 7, 8], [8, 8]], block_tokens=2)
    assert prefix.offsets.tolist() == [0, 2, 3, 4]
    assert prefix.ids.tolist() == [0, 1, 0, 1]
    numbers, shared = chained(prefix)
    assert numbers.tolist() == [0, 1, 0, 3]
    assert shared.tolist() == [1, 1, 0]


def test_hits_shorten_the_time_to_the_first_token_of_a_real_trace(shared_data: Path) -> None:
    workload = read_trace(shared_data / "traces/mooncake-conversation.jsonl").first(500)
    tables = tables_of(max_batched_tokens=2048, per_token_s=1e-5)
    limits = EngineLimits(32, 2048, kv_blocks=100_000)
    engine = Engine()
    cold_s = value(
        engine.run(workload, Fleet(tables, replace(limits, prefix_caching=False))), "ttft", 50
    )
    shares = []
    for kv_blocks in (30_000, 100_000, 1_000_000):
        records = engine.run(workload, Fleet(tables, replace(limits, kv_blocks=kv_blocks)))
        assert value(records, "ttft", 50) < cold_s
        shares.append(sum(hit_tokens(records)) / workload.prompt_tokens.sum())
    assert 0.01 < shares[0] < shares[1] < shares[2] < 0.6
