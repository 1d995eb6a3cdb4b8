"""Mixed launches: what a step with prefill and decodes takes beyond one launch of each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import Rows
from servecast.estimator.mixed_times import chunk_points, mixed_kind, mixed_times
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.tables import TableBounds
from servecast.estimator.token_times import Launch

DIMS = (("head_dim", 128), ("heads", 8), ("kv_heads", 8), ("window", 0))
DECODE = KernelKind("attention_decode", "bf16", "bf16")
PREFILL = KernelKind("attention_prefill", "bf16", "bf16")
LAUNCHES = Counter({Launch(KernelShape("attention_decode", "bf16", "bf16", DIMS), Rows.TOKENS): 2})
BOUNDS = TableBounds(64, 4, 1024, 4096)


def samples(seconds: list[float], **swept: list[int]) -> Samples:
    columns = {name: np.full(len(seconds), size) for name, size in DIMS}
    columns |= {name: np.array(values) for name, values in swept.items()}
    return samples_of(columns, np.array(seconds), np.zeros(len(seconds), dtype=bool))


def predictor(gpu: Sku, *, mixed: bool) -> Predictor:
    """Decodes take 1 ms a sequence at any context, a prompt 10 ms; together 20 % more for the decodes."""
    batch, context = [1, 1, 4, 4], [512, 1024, 512, 1024]
    found = {
        DECODE: samples([1e-3, 1e-3, 4e-3, 4e-3], batch=batch, context=context),
        PREFILL: samples([5e-3, 10e-3], batch=[1, 1], context=[0, 0], chunk=[16, 32]),
    }
    if mixed:
        seconds = [p + 1.2 * d for p in (5e-3, 10e-3) for d in (1e-3, 1e-3, 4e-3, 4e-3)]
        chunks = [16] * 4 + [32] * 4
        together = samples(seconds, batch=2 * batch, context=2 * context, chunk=chunks)
        found[mixed_kind(DECODE)] = together
    return Predictor(gpu, 100, samples=found)


def test_decodes_beside_a_prompt_take_what_was_measured(gpu: Sku) -> None:
    told = predictor(gpu, mixed=True)
    points = chunk_points(LAUNCHES, told)
    extra = mixed_times(LAUNCHES, told, BOUNDS, points)
    assert points.tolist() == [16, 32]
    at = 2048 // BOUNDS.kv_step  # four decodes at 512, two launches a step, 20 % of 4 ms each
    assert extra[:, 4, at] == pytest.approx([2 * 0.8e-3] * 2)
    assert (extra[:, 0] == 0).all()


def test_without_such_measurements_nothing_is_added(gpu: Sku) -> None:
    points = chunk_points(LAUNCHES, predictor(gpu, mixed=False))
    assert mixed_times(LAUNCHES, predictor(gpu, mixed=False), BOUNDS, points).size == 0
