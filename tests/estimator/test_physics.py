"""Physics: the columns count what the operators count, and hand-worked floors hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.attention import Attention, LatentAttention
from servecast.compiler.formats import FP8
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import (
    Activation,
    ActivationKind,
    Add,
    Collective,
    CollectiveKind,
    Embedding,
    Experts,
    KvWrite,
    Linear,
    Norm,
    NormKind,
    Operator,
    Rope,
    Router,
    Sample,
)
from servecast.compiler.kernels import kernel_shapes
from servecast.estimator.attention_times import columns_of, kind_of
from servecast.estimator.learners.roofline import analytical_s
from servecast.estimator.physics import KernelKind, compute_peak, shortest_s, work_of

GPU = Sku(
    *("gpu", 80 * 10**9, 1e12, (("bf16", 100e12), ("fp8", 200e12)), 8, "nvlink", 100e9, 10e9),
    *(100.0, 700.0, 2.0, "a test"),
)
SMALL = st.integers(1, 6)
TOKEN_OPERATORS = st.one_of(
    st.builds(Linear, SMALL, SMALL),
    st.builds(Norm, st.sampled_from(NormKind), SMALL, SMALL, st.booleans()),
    st.builds(Rope, SMALL, SMALL, SMALL),
    st.builds(Activation, st.sampled_from(ActivationKind), SMALL),
    st.builds(Add, SMALL),
    st.builds(Embedding, SMALL, SMALL),
    st.builds(Router, SMALL, SMALL, SMALL),
    st.builds(KvWrite, SMALL),
    st.builds(Sample, SMALL),
)


@given(TOKEN_OPERATORS, SMALL)
def test_token_operators_are_counted_as_the_ir_counts_them(op: Operator, rows: int) -> None:
    (shape,) = kernel_shapes(op)
    work = work_of(kind_of(shape), columns_of(shape, 1, rows=np.array([rows])))
    assert work.flops[0] == op.flops(rows)  # type: ignore[union-attr,call-arg]
    bytes_of_ir = op.moved_bytes(rows)  # type: ignore[union-attr,call-arg]
    tolerance = 2 * 6 * 2  # the second vector of a layer norm, of at most six numbers
    assert abs(work.num_bytes[0] - bytes_of_ir) <= (tolerance if isinstance(op, Norm) else 0)


@given(st.builds(Attention, SMALL, SMALL, SMALL, st.none() | st.integers(1, 12)), SMALL, SMALL)
def test_attention_is_counted_as_the_ir_counts_it(op: Attention, context: int, chunk: int) -> None:
    prefill, decode = kernel_shapes(op)
    one, at = np.array([1]), np.array([context])
    work = work_of(
        kind_of(prefill), columns_of(prefill, 1, batch=one, context=at, chunk=np.array([chunk]))
    )
    assert (work.flops[0], work.num_bytes[0]) == (
        op.flops(context, chunk),
        op.moved_bytes(context, chunk),
    )
    work = work_of(kind_of(decode), columns_of(decode, 1, batch=one, context=at))
    assert (work.flops[0], work.num_bytes[0]) == (op.flops(context, 1), op.moved_bytes(context, 1))


@given(SMALL, SMALL)
def test_latent_attention_is_counted_as_the_ir_counts_it(context: int, chunk: int) -> None:
    op = LatentAttention(heads=3, rank=4, rope_dim=2, nope_dim=3, value_dim=3)
    prefill, decode = kernel_shapes(op)
    one, at = np.array([1]), np.array([context])
    swept = {"batch": one, "context": at}
    work = work_of(kind_of(prefill), columns_of(prefill, 1, **swept, chunk=np.array([chunk])))
    assert (work.flops[0], work.num_bytes[0]) == (
        op.flops(context, chunk),
        op.moved_bytes(context, chunk),
    )
    assert work_of(kind_of(decode), columns_of(decode, 1, **swept)).flops[0] == op.flops(context, 1)


def test_experts_read_only_the_weights_that_a_token_is_sent_to() -> None:
    op = Experts(hidden=64, intermediate=32, experts=8, total_experts=8, top_k=2)
    (shape,) = kernel_shapes(op)
    work = work_of(kind_of(shape), columns_of(shape, 2, rows=np.array([1, 1000])))
    assert work.flops[0] == op.flops(1)
    matrices = 3 * 64 * 32 * 2
    assert work.num_bytes[0] == pytest.approx(2 * matrices + 2 * 2 * 64)
    assert work.num_bytes[1] == pytest.approx(8 * matrices + 1000 * 2 * 2 * 64)


def test_a_large_gemm_cannot_beat_the_peak() -> None:
    dims = {name: np.array([1000]) for name in ("rows", "in_features", "out_features")}
    assert shortest_s(GPU, KernelKind("linear", "bf16"), dims)[0] == pytest.approx(2e9 / 100e12)
    assert shortest_s(GPU, KernelKind("linear", "fp8"), dims)[0] == pytest.approx(2e9 / 200e12)


def test_a_small_batch_cannot_beat_the_reading_of_its_weights() -> None:
    dims = {"rows": np.array([1]), "in_features": np.array([1000]), "out_features": np.array([500])}
    moved = 1000 * 500 * 2 + (1000 + 500) * 2
    assert shortest_s(GPU, KernelKind("linear", "bf16"), dims)[0] == pytest.approx(moved / 1e12)


def test_a_ring_sends_each_byte_out_and_back_but_a_switch_that_adds_only_out() -> None:
    dims = {"degree": np.array([4]), "payload_bytes": np.array([10**9])}
    kind = KernelKind("all_reduce", "bf16")
    assert work_of(kind, dims).num_bytes[0] == pytest.approx(2 * 3 / 4 * 1e9)
    assert shortest_s(GPU, kind, dims)[0] == pytest.approx(1e9 / 100e9)


def test_skewed_routing_may_leave_most_experts_unread_but_not_the_first_rows() -> None:
    op = Experts(hidden=64, intermediate=32, experts=8, total_experts=8, top_k=2)
    (shape,) = kernel_shapes(op)
    dims = columns_of(shape, 1, rows=np.array([50]))
    work = work_of(kind_of(shape), dims)
    floor = shortest_s(GPU, kind_of(shape), dims)[0]
    assert floor == pytest.approx(2 * 3 * 64 * 32 * 2 / 1e12)
    assert work.num_bytes[0] > 2 * 3 * 64 * 32 * 2


def test_weights_in_a_format_without_units_run_at_bf16() -> None:
    assert compute_peak(GPU, "nvfp4") == 100e12
    assert compute_peak(GPU, "int4_g128") == 100e12
    assert compute_peak(GPU, "fp8_block") == 200e12
    with pytest.raises(ValueError, match="gpu: the datasheet has no peak for bf16"):
        compute_peak(replace(GPU, peak_flops_per_s=()), "bf16")


@given(TOKEN_OPERATORS | st.builds(Linear, SMALL, SMALL, st.just(FP8)), st.integers(1, 10**6))
def test_the_analytical_time_never_beats_physics(op: Operator, rows: int) -> None:
    (shape,) = kernel_shapes(op)
    dims = columns_of(shape, 1, rows=np.array([rows]))
    assert analytical_s(GPU, kind_of(shape), dims)[0] >= shortest_s(GPU, kind_of(shape), dims)[0]


@given(st.sampled_from(CollectiveKind), st.integers(2, 8), st.integers(1, 10**9))
def test_collectives_never_beat_their_link(kind: CollectiveKind, degree: int, size: int) -> None:
    (shape,) = kernel_shapes(Collective(kind, 1, degree))
    dims = columns_of(shape, 1, payload_bytes=np.array([size]))
    assert analytical_s(GPU, kind_of(shape), dims)[0] >= shortest_s(GPU, kind_of(shape), dims)[0]
