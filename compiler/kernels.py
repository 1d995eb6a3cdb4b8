"""Operators as profilers and stores know them: a kernel name, formats, and named dimensions.

A ``KernelShape`` is a sharded operator without the axes that a step varies; a ``KernelCase`` adds those
axes and is one point that can be measured. Two operators with one shape are measured once.

Swept axes by kernel: token-level kernels ``rows``; ``attention_prefill`` and ``latent_prefill``
``batch, context, chunk`` (``context`` tokens cached before a chunk of ``chunk``); ``attention_decode``
and ``latent_decode`` ``batch, context`` (``context`` counts the cached tokens of each sequence);
``delta_prefill`` ``batch, chunk`` and ``delta_decode`` ``batch``, whatever the context;
collectives ``payload_bytes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.ir import (
    Activation,
    Add,
    Collective,
    Embedding,
    Experts,
    KvWrite,
    Linear,
    Norm,
    Operator,
    Rope,
    Router,
    Sample,
)

Dims = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, order=True)
class KernelShape:
    """``dims`` are sorted by name. ``kv_dtype`` is empty where no cache is read or written."""

    kernel: str
    dtype: str
    kv_dtype: str
    dims: Dims

    def case(self, **swept: int) -> KernelCase:
        """This shape at one point of its swept axes."""
        dims = tuple(sorted((*self.dims, *swept.items())))
        return KernelCase(self.kernel, self.dtype, self.kv_dtype, dims)


@dataclass(frozen=True, slots=True, order=True)
class KernelCase:
    kernel: str
    dtype: str
    kv_dtype: str
    dims: Dims


# Kernels whose time depends on the step's requests, not on its rows alone: a name begins so.
SEQUENCE_KERNELS = ("attention", "latent", "delta")

# Points that a shape is measured at with the profiler's usual limits, by the axes it is swept over.
ROW_CASES, PAYLOAD_CASES, DECODE_CASES, PREFILL_CASES = 14, 14, 108, 142
# Kernels along whose axis time goes in stairs, as tiles fill; and one with a row for each sequence.
AXIS_CASES = {
    **{"linear": 26, "experts": 26, "router": 26, "delta_prefill": 26, "delta_decode": 16},
    "sample": 9,
}
# And those of an uneven step: lengths of a batch that differ, experts that draw more rows than others.
SKEWED_CASES = {"attention_decode": 21, "experts": 14}
# The longest that an agent spends on one point, of a kernel shorter than 25 ms: a quarter of a second of
# samples before it says that the noise stays, and 50 ms around them.
MAX_CASE_S = 0.3
# The least: ten samples of half a millisecond, and 50 ms around them.
MIN_CASE_S = 0.06


def num_cases(shape: KernelShape) -> int:
    """About how many points there are to measure of a shape."""
    skewed = SKEWED_CASES.get(shape.kernel, 0)
    if shape.kernel in AXIS_CASES:
        return AXIS_CASES[shape.kernel] + skewed
    if shape.kernel.endswith("_prefill"):
        return PREFILL_CASES
    if shape.kernel.endswith("_decode"):
        return DECODE_CASES + skewed
    return PAYLOAD_CASES if "degree" in dict(shape.dims) else ROW_CASES + skewed


def _shape(kernel: str, dtype: str, kv_dtype: str = "", **dims: int) -> KernelShape:
    return KernelShape(kernel, dtype, kv_dtype, tuple(sorted(dims.items())))


def kernel_shapes(op: Operator) -> tuple[KernelShape, ...]:
    """The kernels that an operator launches: one, or prefill and decode for attention."""
    match op:
        case Attention():
            return tuple(
                _shape(
                    kernel,
                    op.activations.name,
                    op.kv.name,
                    heads=op.heads,
                    kv_heads=op.kv_heads,
                    head_dim=op.head_dim,
                    window=op.window or 0,
                )
                for kernel in ("attention_prefill", "attention_decode")
            )
        case LatentAttention():
            return tuple(
                _shape(
                    kernel,
                    op.activations.name,
                    op.kv.name,
                    heads=op.heads,
                    rank=op.rank,
                    rope_dim=op.rope_dim,
                    nope_dim=op.nope_dim,
                    value_dim=op.value_dim,
                )
                for kernel in ("latent_prefill", "latent_decode")
            )
        case DeltaAttention():
            return tuple(
                _shape(
                    kernel,
                    op.activations.name,
                    op.state.name,
                    heads=op.heads,
                    kv_heads=op.key_heads,
                    head_dim=op.head_dim,
                )
                for kernel in ("delta_prefill", "delta_decode")
            )
        case Collective():
            return (_shape(op.kind.value, op.format.name, degree=op.degree),)
        case _:
            return (_token_kernel_shape(op),)


def _token_kernel_shape(  # noqa: C901  # one case an operator
    op: Linear | Norm | Rope | Activation | Add | Embedding | Router | Experts | KvWrite | Sample,
) -> KernelShape:
    match op:
        case Linear():
            return _shape(
                "linear",
                op.weights.name,
                in_features=op.in_features,
                out_features=op.out_features,
            )
        case Norm():
            return _shape(
                op.kind.value,
                op.activations.name,
                width=op.width,
                per_row=op.per_row,
                residual=int(op.adds_residual),
            )
        case Rope():
            return _shape(
                "rope",
                op.activations.name,
                heads=op.heads,
                head_dim=op.head_dim,
                rotary_dim=op.rotary_dim,
            )
        case Activation():
            return _shape(op.kind.value, op.activations.name, width=op.width)
        case Add():
            return _shape("add", op.activations.name, width=op.width)
        case Embedding():
            return _shape("embedding", op.weights.name, vocab=op.vocab, width=op.width)
        case Router():
            return _shape(
                "router", op.weights.name, hidden=op.hidden, experts=op.experts, top_k=op.top_k
            )
        case Experts():
            return _shape(
                "experts",
                op.weights.name,
                hidden=op.hidden,
                intermediate=op.intermediate,
                experts=op.experts,
                total_experts=op.total_experts,
                top_k=op.top_k,
            )
        case KvWrite():
            return _shape("kv_write", "bf16", op.kv.name, width=op.width)
        case Sample():
            return _shape("sample", "fp32", vocab=op.vocab)
        case _:
            assert_never(op)
