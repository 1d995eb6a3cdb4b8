"""The load of routed experts, by hand: what a rank touches when popularity follows a power law."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.learners.routing import routed_load
from servecast.estimator.measurement import Floats, Ints


def load(
    rows: list[int], experts: int, total: int, top_k: int, tile_rows: int = 64
) -> tuple[Floats, Floats]:
    sizes = {"experts": experts, "total_experts": total, "top_k": top_k}
    columns: dict[str, Ints] = {name: np.full(len(rows), size) for name, size in sizes.items()}
    return routed_load({"rows": np.array(rows), **columns}, tile_rows)


def test_one_token_touches_as_many_experts_as_it_chooses() -> None:
    touched, tiles = load([1], experts=64, total=64, top_k=6)
    assert touched == pytest.approx([6])
    assert tiles == pytest.approx([6])


def test_of_ranks_with_one_expert_each_the_fullest_touches_its_own() -> None:
    touched, _ = load([1, 16, 4096], experts=1, total=64, top_k=6)
    assert touched == pytest.approx([1, 1, 1])


def test_a_few_tokens_touch_fewer_experts_than_if_they_were_spread_evenly_and_many_touch_all() -> (
    None
):
    """32 tokens of 8 experts each are two for each of 128; popular ones take more of them."""
    touched, _ = load([32, 16384], experts=128, total=128, top_k=8)
    assert 64 < touched[0] < 115
    assert touched[1] > 120


def test_work_never_falls_by_much_as_a_batch_grows_beyond_its_routings_switch() -> None:
    """Draws are the same for every batch, so that a curve over batches has no chance in it."""
    rows = [64, 128, 256, 512, 1024, 4096]
    touched, tiles = load(rows, experts=16, total=128, top_k=8)
    assert (np.diff(touched) > -0.5).all()
    assert (np.diff(tiles) > 0).all()
    again = [load([count], experts=16, total=128, top_k=8)[0][0] for count in rows]
    assert again == touched.tolist()


def test_all_tokens_find_room_though_no_expert_takes_one_twice() -> None:
    """Of two experts a token chooses both: each has every token, in tiles of one row."""
    touched, tiles = load([3, 100], experts=2, total=2, top_k=2, tile_rows=1)
    assert touched == pytest.approx([2, 2])
    assert tiles == pytest.approx([6, 200])
