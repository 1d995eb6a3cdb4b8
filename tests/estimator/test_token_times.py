"""What a step's tokens take: a GEMM computes whole tiles, a norm the rows that there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import Rows
from servecast.estimator.engine_profile import ENGINE_PROFILES
from servecast.estimator.measurement import Floats
from servecast.estimator.predictor import Predictor
from servecast.estimator.token_times import Launch, token_times

NONE = ENGINE_PROFILES["none"]
SIZES = (("in_features", 4096), ("out_features", 4096))
GEMM = Launch(KernelShape("linear", "bf16", "", SIZES), Rows.TOKENS)
NORM = Launch(
    KernelShape("rms_norm", "bf16", "", (("per_row", 1), ("residual", 0), ("width", 4096))),
    Rows.TOKENS,
)
MOST = 4096


def seconds(gpu: Sku, launch: Launch, capture_sizes: tuple[int, ...] = ()) -> Floats:
    engine = replace(NONE, capture_sizes=capture_sizes)
    return token_times(Counter([launch]), Predictor(gpu, 100), MOST, engine).seconds


@pytest.mark.parametrize(("first", "last"), [(513, 576), (1985, 2048), (2049, 2176)])
def test_a_tile_that_is_not_full_takes_as_long_as_one_that_is(
    gpu: Sku, first: int, last: int
) -> None:
    times = seconds(gpu, GEMM)
    assert times[first : last + 1] == pytest.approx(times[last])
    assert times[first - 1] < times[first]


def test_a_norm_takes_longer_with_every_row(gpu: Sku) -> None:
    assert (np.diff(seconds(gpu, NORM)[512:]) > 0).all()


def test_few_rows_are_no_whole_tile(gpu: Sku) -> None:
    """A decode of one sequence is not billed for 64; a captured graph is, for its own size."""
    assert seconds(gpu, GEMM)[1] < seconds(gpu, GEMM)[512]
    captured = seconds(gpu, GEMM, (1, 8, 32))
    assert captured[9] == captured[32] < captured[33] == captured[64]
