"""A tensor-parallel rank's share of each operator.

As vLLM has it: columns then rows and one all-reduce (Megatron-LM, Shoeybi et al. 2019, section 3),
vocabulary-parallel embedding and head, KV heads replicated where there are fewer than ranks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.ir import (
    Activation,
    Add,
    Collective,
    CollectiveKind,
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
from servecast.compiler.program import Site, Split


class Indivisible(Exception):
    """A dimension that a degree does not divide; ``shard`` knows the model and says it to the user."""


def collective_share(op: Collective, tp: int) -> Collective | None:
    if tp == 1:
        return None
    gathers = op.kind is CollectiveKind.ALL_GATHER
    return replace(op, degree=tp, elements=_padded(op.elements, tp) if gathers else op.elements)


def operator_share(site: Site, tp: int) -> Operator:  # noqa: C901  # one case an operator
    op, where = site.op, f"{site.name} (line {site.line})"
    match op:
        case Linear():
            return _linear_share(op, site, tp, where)
        case Embedding():
            return replace(op, vocab=_padded(op.vocab, tp))
        case Attention():
            return replace(op, heads=_heads(op, tp, where), kv_heads=_kv_heads(op, tp, where))
        case LatentAttention():
            return replace(op, heads=divided(op.heads, tp, "heads", where))
        case DeltaAttention():
            key_heads = divided(op.key_heads, tp, "key heads", where)
            return replace(op, heads=divided(op.heads, tp, "heads", where), key_heads=key_heads)
        case Norm():
            return replace(op, per_row=_parts(op.per_row, site, tp, where))
        case Rope():
            return replace(op, heads=_parts(op.heads, site, tp, where))
        case KvWrite():
            return replace(op, width=_kv_width(op, site, tp, where))
        case Activation():
            return replace(op, width=divided(op.width, tp, "numbers a row", where))
        case Add() | Router() | Sample() | Experts() | Collective():
            return op
        case _:
            assert_never(op)


def divided(size: int, tp: int, what: str, where: str) -> int:
    if size % tp:
        raise Indivisible(f"{where} has {size:,} {what}, which tp {tp} does not divide")
    return size // tp


def _padded(size: int, tp: int) -> int:
    """Vocabularies are padded where they do not divide."""
    return -(-size // tp)


def _heads(op: Attention, tp: int, where: str) -> int:
    return divided(op.heads, tp, "heads", where)


def _kv_heads(op: Attention, tp: int, where: str) -> int:
    """At least one: with more ranks than KV heads, each head is held by several ranks."""
    if tp > op.kv_heads:
        if tp % op.kv_heads:
            raise Indivisible(f"{where} has {op.kv_heads} KV heads, which do not divide tp {tp}")
        return 1
    return divided(op.kv_heads, tp, "KV heads", where)


def _parts(parts: int, site: Site, tp: int, where: str) -> int:
    """A rank's share of the heads that a norm or rope works on, in place, before attention."""
    match site.feeds:
        case Attention() as attention:
            heads, kv_heads = _heads(attention, tp, where), _kv_heads(attention, tp, where)
            shares = {
                attention.heads: heads,
                attention.kv_heads: kv_heads,
                attention.heads + attention.kv_heads: heads + kv_heads,
            }
            return shares[parts] if parts in shares else divided(parts, tp, "heads", where)
        case LatentAttention() as latent:  # the shared rotary key is turned by every rank
            return divided(latent.heads, tp, "heads", where) + parts - latent.heads
        case _:
            return divided(parts, tp, "parts", where)


def _kv_width(op: KvWrite, site: Site, tp: int, where: str) -> int:
    if isinstance(site.feeds, Attention):
        return op.width // site.feeds.kv_heads * _kv_heads(site.feeds, tp, where)
    return op.width


def _linear_share(op: Linear, site: Site, tp: int, where: str) -> Linear:
    if site.split is Split.ROWS:
        share = divided(op.in_features, tp, "input features", where)
        return replace(op, in_features=share)
    if site.name == "lm_head":
        return replace(op, out_features=_padded(op.out_features, tp))
    if isinstance(site.feeds, Attention):
        return replace(op, out_features=_qkv_features(op, site.feeds, tp, where))
    divided(site.groups or op.out_features, tp, "parts" if site.groups else "outputs", where)
    return replace(op, out_features=op.out_features // tp)


def _qkv_features(op: Linear, attention: Attention, tp: int, where: str) -> int:
    """Queries, with their gates where the layer makes gates too, then keys and values."""
    heads, kv_heads = _heads(attention, tp, where), _kv_heads(attention, tp, where)
    queries = op.out_features - 2 * attention.kv_heads * attention.head_dim
    return queries // attention.heads * heads + 2 * kv_heads * attention.head_dim
