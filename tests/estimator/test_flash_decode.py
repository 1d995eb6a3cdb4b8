"""How a decode's blocks and splits fill a GPU, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.learners.flash_decode import decode_columns, splits_of
from servecast.estimator.measurement import Floats


def columns(**sizes: float) -> dict[str, float]:
    given: dict[str, Floats] = {name: np.array([float(size)]) for name, size in sizes.items()}
    return {name: float(column[0]) for name, column in decode_columns(given, 10).items()}


def test_heads_that_share_keys_are_one_block_and_its_keys_are_split_until_blocks_fill_the_gpu() -> (
    None
):
    """Ten multiprocessors run 20 blocks; two sequences of two key heads are 4: five splits of 20 parts."""
    found = columns(batch=2, heads=16, kv_heads=2, head_dim=128, window=0, visible=2560)
    assert found["packed_blocks"] == 4
    assert (found["splits"], found["split_blocks"], found["keys_of_block"]) == (5, 20, 512)
    assert (found["split_wave_use"], found["keys_a_wave"]) == (1, 512)


@pytest.mark.parametrize(("kv_heads", "window"), [(16, 0), (2, 512)])
def test_heads_with_keys_of_their_own_or_a_window_are_a_block_each_and_never_split(
    kv_heads: int, window: int
) -> None:
    found = columns(batch=2, heads=16, kv_heads=kv_heads, head_dim=128, window=window, visible=2560)
    assert (found["alone"], found["splits"], found["split_blocks"]) == (1, 1, 32)
    assert found["keys_a_wave"] == 2 * 2560  # of 20 blocks at once, 32 are two rounds


def test_splits_are_the_fewest_that_use_waves_nearly_as_well_as_the_best() -> None:
    """Of 20 at once: 7 blocks use 7/20, 14/20, 21/40, 28/40, 35/40 of 1, 2, …; 17 fill it without any split;
    one block of three parts cannot be split in more than three.
    """
    assert splits_of(np.array([7.0, 17.0, 1.0]), np.array([100.0, 100.0, 3.0]), 20).tolist() == [
        5,
        1,
        3,
    ]


def test_a_block_reads_whole_parts_of_the_keys_and_heads_that_stand_alone_each_read_their_own() -> (
    None
):
    """Of 16 heads on two key heads: one read for eight, or eight with a window; 130 keys are two parts."""
    heads = {"batch": 2, "heads": 16, "kv_heads": 2, "head_dim": 128}
    assert columns(**heads, window=0, visible=130)["swept"] == 2 * 2 * 256 * 128
    assert columns(**heads, window=512, visible=130)["swept"] == 2 * 16 * 256 * 128
