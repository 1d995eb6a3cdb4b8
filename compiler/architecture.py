"""A decoder architecture in numbers, between a foreign config and a spec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moe:
    """Routed experts, ``shared`` the width of those that every row passes."""

    experts: int
    choose: int
    ffn: int
    shared: int | None = None
    router_bias: bool = False
    bias: bool = False
    weights: str | None = None  # a format of their own


@dataclass(frozen=True, slots=True)
class Latent:
    """Latent attention: ranks of queries and of keys and values, and a head's rotary part."""

    q_rank: int
    kv_rank: int
    rope: int
    value: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """``windows`` has an entry for each layer; the first ``dense_layers`` are without experts."""

    hidden: int
    vocab: int
    context: int
    weights: str
    heads: int
    kv_heads: int
    head: int
    ffn: int
    activation: str
    windows: tuple[int | None, ...]
    tied: bool = False
    norm: str = "rms_norm"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    norms_after: bool = False  # another norm at the end of each residual
    sinks: bool = False
    rotary_dims: int | None = None  # of each head, where not all
    parallel: str | None = None  # attention beside feed-forward, with "one" norm or "two"
    moe: Moe | None = None
    dense_layers: int = 0
    latent: Latent | None = None
