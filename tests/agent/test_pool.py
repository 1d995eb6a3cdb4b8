"""Memory that stays filled between cases: what one case draws, what the next one finds, and the limit."""

from __future__ import annotations

import pytest
import torch

from servecast.agent.kernels.buffers import Buffers, DeviceOutOfMemoryError
from servecast.agent.kernels.pool import MIN_CHUNK_BYTES, Pool

MIB = 1 << 20


def case_of(pool: Pool, free_bytes: int = 256 * MIB) -> Buffers:
    return Buffers(torch.device("cpu"), free_bytes, 4096, pool)


def test_no_two_tensors_of_a_case_share_memory_and_the_next_case_gets_the_same() -> None:
    pool = Pool(256 * MIB)
    some = case_of(pool)
    first, second = (some.normal(3, 5, dtype=torch.bfloat16) for _ in range(2))
    assert second.data_ptr() >= first.data_ptr() + first.nbytes
    assert case_of(pool).normal(15, dtype=torch.bfloat16).data_ptr() == first.data_ptr()
    assert pool.held_bytes == MIN_CHUNK_BYTES


def test_what_is_drawn_is_random_at_its_scale_and_differs_from_tensor_to_tensor() -> None:
    some = case_of(Pool(256 * MIB))
    whole, small = (some.normal(2000, dtype=torch.float32, scale=s) for s in (1.0, 0.1))
    assert whole.std().item() == pytest.approx(1.0, rel=0.1)
    assert small.std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(whole, some.normal(2000, dtype=torch.float32))


def test_beyond_the_limit_a_case_makes_its_own_and_nothing_is_kept() -> None:
    pool = Pool(MIN_CHUNK_BYTES)
    some = case_of(pool)
    kept = some.normal(8, dtype=torch.float32)
    own = some.normal(MIN_CHUNK_BYTES // 4, dtype=torch.float32)
    assert pool.held_bytes == MIN_CHUNK_BYTES
    assert own.std().item() == pytest.approx(1.0, rel=0.1)
    assert own.data_ptr() != kept.data_ptr()


def test_what_costs_to_make_is_made_once_while_there_is_room() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    pool = Pool(100)
    assert [case_of(pool).kept(("a",), 60, make) for _ in range(2)] == [1, 1]
    assert [case_of(pool).kept(("b",), 60, make) for _ in range(2)] == [2, 3]
    assert Buffers(torch.device("cpu"), 100, 4096).kept(("a",), 60, make) == 4


def test_memory_that_the_pool_holds_counts_as_free_for_its_own_cases() -> None:
    pool = Pool(256 * MIB)
    case_of(pool).normal(32 * MIB, dtype=torch.bfloat16)  # 64 MiB
    again = case_of(pool, free_bytes=8 * MIB)
    again.normal(32 * MIB, dtype=torch.bfloat16)
    with pytest.raises(DeviceOutOfMemoryError, match="has 74658611 to spare"):
        again.reserve(8 * MIB)
