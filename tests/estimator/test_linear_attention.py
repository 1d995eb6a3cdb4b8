"""Times of linear attention: those of the step's requests, whatever stands before them."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.compiler.attention import DeltaAttention
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape, kernel_shapes
from servecast.estimator.attention_times import decode_surface, kind_of, prefill_times
from servecast.estimator.models import needs_model
from servecast.estimator.physics import work_of
from servecast.estimator.predictor import Predictor, Samples, samples_of

PREFILL, DECODE = kernel_shapes(DeltaAttention(heads=4, key_heads=2, head_dim=8))
CHUNKS, BATCHES = np.array([1, 64, 128]), np.array([1, 8, 16])


def samples(shape: KernelShape, seconds: list[float], **swept: np.ndarray) -> Samples:
    fixed = {name: np.full(len(seconds), size) for name, size in shape.dims}
    return samples_of(fixed | swept, np.array(seconds), np.zeros(len(seconds), dtype=np.bool_))


@pytest.fixture
def measured(gpu: Sku) -> Predictor:
    """A launch of 10 us, 0.1 us a token of prefill, 1 us a decode."""
    prefill = samples(PREFILL, [10e-6 + 0.1e-6 * c for c in CHUNKS], batch=CHUNKS**0, chunk=CHUNKS)
    decode = samples(DECODE, [10e-6 + 1e-6 * b for b in BATCHES], batch=BATCHES)
    known = {kind_of(PREFILL): prefill, kind_of(DECODE): decode}
    return Predictor(sku=gpu, num_sms=100, kinds=tuple(known), samples=known)


def test_decodes_cost_by_their_number_at_any_context(measured: Predictor) -> None:
    batch = np.array([1.0, 12.0, 16.0])
    for context in (0.0, 3.0, 100_000.0):
        seconds, _ = decode_surface(measured, DECODE).at(batch, np.full(3, context))
        assert seconds == pytest.approx([11e-6, 22e-6, 26e-6])


def test_a_chunk_costs_by_its_tokens_at_any_history_and_the_launch_once(
    measured: Predictor,
) -> None:
    times = prefill_times(measured, PREFILL)
    chunk = np.array([32.0, 64.0, 128.0, 256.0])
    for context in (0.0, 50_000.0):
        seconds, _ = times.chunk_s(np.full(4, context), chunk)
        assert seconds == pytest.approx([3.1e-6, 6.3e-6, 12.7e-6, 25.5e-6])  # of 1 token more
    assert times.base_s == pytest.approx(10.1e-6)


def test_a_measured_shape_is_looked_up_and_another_is_learnt(measured: Predictor) -> None:
    kind = kind_of(DECODE)
    many = samples(DECODE, [1e-6] * 200, batch=np.arange(1, 201))
    assert not needs_model(kind, {DECODE}, many)
    _, wider = kernel_shapes(DeltaAttention(heads=8, key_heads=2, head_dim=8))
    assert needs_model(kind, {wider}, many)


def test_its_work_is_counted_as_the_operator_counts_it() -> None:
    op = DeltaAttention(heads=4, key_heads=2, head_dim=8)
    dims = {name: np.array([size]) for name, size in PREFILL.dims}
    work = work_of(kind_of(PREFILL), dims | {"batch": np.array([3]), "chunk": np.array([7])})
    convolution = 7 * 2 * op.conv_width * op.conv_channels
    assert work.flops.tolist() == [3 * (op.flops(7) - convolution)]
    tail = 2 * 2 * (op.conv_width - 1) * op.conv_channels
    assert work.num_bytes.tolist() == [3 * (op.moved_bytes(7) - tail)]
