"""Operators as words, and rows as aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

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


def shape_text(op: Operator) -> str:  # noqa: C901  # one case an operator
    """An operator's sizes on one rank, as ``4096 -> 6144``."""
    match op:
        case Linear():
            extras = [" +bias" if op.bias else "", " tied" if op.tied else ""]
            return f"{op.in_features} -> {op.out_features}{''.join(extras)}"
        case Norm():
            parts = f"{op.per_row} x " if op.per_row > 1 else ""
            return f"{parts}{op.width}{' +residual' if op.adds_residual else ''}"
        case Rope():
            dims = f" dims {op.rotary_dim}" if op.rotary_dim != op.head_dim else ""
            return f"{op.heads} x {op.head_dim}{dims}"
        case Activation():
            return f"{op.kind} {op.width}"
        case Add():
            return f"{op.width}"
        case Embedding():
            return f"{op.vocab} -> {op.width}"
        case Router():
            return f"{op.hidden} -> {op.experts} choose {op.top_k}"
        case Experts():
            return f"{op.experts} of {op.total_experts} x ({op.hidden} -> {op.intermediate})"
        case KvWrite():
            return f"{op.width}"
        case Sample():
            return f"{op.vocab}"
        case Attention():
            window = f" window {op.window}" if op.window else ""
            return f"{op.heads}/{op.kv_heads} x {op.head_dim}{window}"
        case DeltaAttention():
            return f"{op.heads}/{op.key_heads} x {op.head_dim}"
        case LatentAttention():
            return f"{op.heads} x {op.nope_dim} rank {op.rank} rope {op.rope_dim}"
        case Collective():
            return f"{op.elements} over {op.group} {op.degree}"


def format_text(op: Operator) -> str:
    """The weights' format, or the cache's, or what moves."""
    match op:
        case Linear() | Embedding() | Router() | Experts():
            return op.weights.name
        case Attention() | LatentAttention() | KvWrite():
            return op.kv.name
        case DeltaAttention():
            return op.state.name
        case Collective():
            return op.format.name
        case Sample():
            return "fp32"
        case _:
            return op.activations.name


def flops_per_token(op: Operator) -> int | None:
    """FLOPs of one row; None where they depend on the context or nothing is computed."""
    if isinstance(op, (Attention, LatentAttention, Collective)):
        return None
    return op.flops(1)


def kind_text(op: Operator) -> str:
    match op:
        case Norm() | Collective():
            return op.kind.value
        case Activation():
            return "activation"
        case KvWrite():
            return "kv_write"
        case LatentAttention():
            return "latent attention"
        case DeltaAttention():
            return "delta attention"
        case _:
            return type(op).__name__.lower()


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Columns two blanks apart, ``l`` or ``r`` aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]
