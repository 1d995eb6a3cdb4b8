"""Memory that stays filled between cases: what one case draws, what the next one finds, and the limit."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from servecast.agent.cpu import CPU
from servecast.agent.kernels.buffers import Buffers, DeviceOutOfMemoryError
from servecast.agent.kernels.kernel import Shape
from servecast.agent.kernels.pool import MIN_GROWTH_BYTES, Pool
from servecast.agent.kernels.reference import SIZES
from servecast.agent.kernels.registry import Offer, offers

MIB = 1 << 20


@dataclass(slots=True)
class Recorded(Buffers):
    """Keeps what it drew, and a copy of how that was."""

    drawn: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        piece = Buffers.normal(self, *shape, dtype=dtype, scale=scale)
        self.drawn.append((piece, piece.double()))
        return piece


def case_of(pool: Pool, free_bytes: int = 256 * MIB) -> Buffers:
    return Buffers(torch.device("cpu"), free_bytes, 4096, pool)


def test_no_two_tensors_of_a_case_share_memory_and_the_next_case_gets_the_same() -> None:
    pool = Pool(256 * MIB)
    some = case_of(pool)
    first, second = (some.normal(3, 5, dtype=torch.bfloat16) for _ in range(2))
    assert second.data_ptr() >= first.data_ptr() + first.nbytes
    assert case_of(pool).normal(15, dtype=torch.bfloat16).data_ptr() == first.data_ptr()
    assert pool.held_bytes == MIN_GROWTH_BYTES


def test_memory_grows_as_far_again_and_what_it_held_stays_where_it_was() -> None:
    pool = Pool(256 * MIB)
    small = case_of(pool).normal(48 * MIB // 4, dtype=torch.float32)
    before = small.clone()
    assert pool.held_bytes == 48 * MIB
    large = case_of(pool).normal(50 * MIB // 4, dtype=torch.float32)
    assert pool.held_bytes == 96 * MIB
    assert large.data_ptr() == small.data_ptr()
    assert torch.equal(large[: len(small)], before)


def test_filling_ahead_takes_a_quarter_at_most_of_what_the_case_may_still_need() -> None:
    pool = Pool(256 * MIB)
    some = case_of(pool, free_bytes=40 * MIB)  # 36 of them to spare
    some.normal(MIB, dtype=torch.float32)
    assert pool.held_bytes == (4 + 8) * MIB
    assert some.spare_bytes == (36 - 12) * MIB


def test_time_that_goes_into_memory_for_later_cases_is_told_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = Pool(256 * MIB)
    with caplog.at_level("INFO"):
        case_of(pool).normal(MIB, dtype=torch.float32)
        once_s = pool.once_s
        case_of(pool).normal(MIB, dtype=torch.float32)
    assert once_s > 0
    assert pool.once_s == once_s
    assert [record.getMessage() for record in caplog.records] == ["memory made ready"]


def test_memory_that_is_dropped_is_filled_again_for_the_next_case() -> None:
    pool = Pool(256 * MIB)
    first = case_of(pool).normal(1000, dtype=torch.float32).clone()
    pool.drop()
    assert pool.held_bytes == 0
    assert torch.equal(case_of(pool).normal(1000, dtype=torch.float32), first)


def test_what_is_drawn_is_random_at_its_scale_and_differs_from_tensor_to_tensor() -> None:
    some = case_of(Pool(256 * MIB))
    whole, small = (some.normal(2000, dtype=torch.float32, scale=s) for s in (1.0, 0.1))
    assert whole.std().item() == pytest.approx(1.0, rel=0.1)
    assert small.std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(whole, some.normal(2000, dtype=torch.float32))


def test_beyond_the_limit_a_case_makes_its_own_and_nothing_is_kept() -> None:
    pool = Pool(MIN_GROWTH_BYTES)
    some = case_of(pool)
    kept = some.normal(8, dtype=torch.float32)
    own = some.normal(MIN_GROWTH_BYTES // 4, dtype=torch.float32)
    assert pool.held_bytes == MIN_GROWTH_BYTES
    assert own.std().item() == pytest.approx(1.0, rel=0.1)
    assert own.data_ptr() != kept.data_ptr()


def test_a_piece_of_more_than_a_quarter_of_the_limit_takes_no_room_from_others() -> None:
    pool = Pool(256 * MIB)
    case_of(pool).normal(64 * MIB + 4096, dtype=torch.int8)
    assert pool.held_bytes == 0
    case_of(pool).normal(64 * MIB, dtype=torch.int8)
    assert pool.held_bytes == 64 * MIB


def test_where_addresses_cannot_be_had_a_case_makes_its_own() -> None:
    pool = Pool(1 << 60)
    own = case_of(pool).normal(8, dtype=torch.float32)
    assert own.isfinite().all()
    assert pool.held_bytes == 0


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


def spread(piece: torch.Tensor) -> float:
    return piece.double().std(correction=0).item()


LIBRARIES = ("torch", "torch_weight_only", "dequantised")


@pytest.mark.parametrize("offer", offers(LIBRARIES, CPU), ids=lambda o: f"{o.name}-{o.library}")
def test_no_kernel_leaves_numbers_behind_that_are_not_as_random(offer: Offer) -> None:
    """Most leave them alone; a cache that is written to holds other numbers of the same size."""
    for dtype, kv_dtype in offer.kernel.formats(CPU):
        shape = Shape(dtype, kv_dtype, {name: SIZES[name] for name in offer.kernel.dims})
        buffers = Recorded(torch.device("cpu"), 4096 * MIB, 4096)
        prepared = offer.kernel.prepare(shape, buffers)
        with torch.inference_mode():
            for launch in 5 * prepared.launches:
                launch()
        for piece, was in buffers.drawn:
            assert torch.equal(piece.double(), was) or offer.name == "kv_write"
            assert spread(piece) == pytest.approx(spread(was), rel=0.3)
