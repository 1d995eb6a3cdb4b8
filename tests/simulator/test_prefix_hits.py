"""Which tokens of a prompt an automatic prefix cache holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_cases import workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.prefix_hits import prefix_hits
from servecast.simulator.traffic.traces import read_trace
from servecast.simulator.traffic.workload import PrefixBlocks, Workload


def with_blocks(*prompts: tuple[int, list[int]]) -> Workload:
    """Prompts of (tokens, ids of their blocks of four)."""
    ids = np.array([block for _, blocks in prompts for block in blocks])
    offsets = np.concatenate(([0], np.cumsum([len(blocks) for _, blocks in prompts])))
    plain = workload_of(*((float(i), tokens, 2) for i, (tokens, _) in enumerate(prompts)))
    return replace(plain, prefix=PrefixBlocks(4, offsets, ids))


def test_whole_blocks_from_the_beginning_are_hit_until_one_is_new() -> None:
    workload = with_blocks((12, [1, 2, 3]), (12, [1, 2, 9]), (12, [8, 2, 3]))
    assert prefix_hits(workload).tolist() == [0, 8, 0]


def test_the_last_token_is_always_computed() -> None:
    """The same twelve tokens again: two blocks are hit, and four tokens computed to get the next one."""
    assert prefix_hits(with_blocks((12, [1, 2, 3]), (12, [1, 2, 3]))).tolist() == [0, 8]
    assert prefix_hits(with_blocks((12, [1, 2, 3]), (13, [1, 2, 3, 4]))).tolist() == [0, 12]


def test_a_small_cache_loses_what_was_used_longest_ago_from_its_end() -> None:
    """Three blocks: after the second request 2 is gone and 1 is left."""
    workload = with_blocks((9, [1, 2, 3]), (9, [5, 6]), (9, [1, 2]))
    assert prefix_hits(workload, cache_tokens=12).tolist() == [0, 0, 4]


def test_without_block_hashes_there_is_nothing_to_say() -> None:
    with pytest.raises(UserError, match=r"^rows: prefix hits need a trace with the prompts' block"):
        prefix_hits(workload_of((0, 1, 1)))


def test_a_smaller_cache_hits_less_of_a_real_trace(shared_data: Path) -> None:
    workload = read_trace(shared_data / "traces/mooncake-conversation.jsonl").first(500)
    hits = prefix_hits(workload)
    assert 0.1 < hits.sum() / workload.prompt_tokens.sum() < 0.6
    assert prefix_hits(workload, cache_tokens=1e6).sum() < hits.sum()
