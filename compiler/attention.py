"""Attention operators: what a step's time depends on beside its tokens, each request's context; and linear
attention, which keeps a state of one size instead.

Shapes and formats of one rank, as in `ir.py`; the cached context and the new tokens are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from servecast.compiler.formats import BF16, FP32, Format


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal attention over a paged cache, grouped-query, optionally windowed.

    Shapes: q [tokens, heads, head_dim], cache [context, kv_heads, head_dim].
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None  # tokens a query sees, itself included
    sinks: bool = False
    kv: Format = BF16
    activations: Format = BF16

    @property
    def parameters(self) -> int:
        return self.heads if self.sinks else 0

    @property
    def weight_bytes(self) -> int:
        return self.activations.num_bytes(self.parameters)

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv.num_bytes(2 * self.kv_heads * self.head_dim)

    def seen_tokens(self, context: int, chunk: int) -> int:
        """(query, key) pairs when ``chunk`` tokens follow ``context`` cached ones."""
        if self.window is None:
            return chunk * context + chunk * (chunk + 1) // 2
        growing = max(0, min(chunk, self.window - context))  # queries that still see everything
        seen = growing * context + growing * (growing + 1) // 2
        return seen + (chunk - growing) * self.window

    def flops(self, context: int, chunk: int) -> int:
        return 4 * self.seen_tokens(context, chunk) * self.heads * self.head_dim

    def moved_bytes(self, context: int, chunk: int) -> int:
        """q and output once, the visible cache once."""
        visible = context + chunk
        if self.window is not None:
            visible = min(visible, self.window + chunk - 1)
        qo = self.activations.num_bytes(2 * chunk * self.heads * self.head_dim)
        return qo + self.kv_bytes_per_token * visible


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    The cache holds one latent of ``rank`` and one rotary key of ``rope_dim`` per token, shared by all
    heads, so tensor parallelism splits the heads and replicates the cache.
    """

    heads: int
    rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    kv: Format = BF16
    activations: Format = BF16
    parameters = 0
    weight_bytes = 0

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv.num_bytes(self.rank + self.rope_dim)

    def flops(self, context: int, chunk: int) -> int:
        pairs = chunk * context + chunk * (chunk + 1) // 2
        return 2 * pairs * self.heads * (2 * self.rank + self.rope_dim)

    def moved_bytes(self, context: int, chunk: int) -> int:
        qo = self.activations.num_bytes(chunk * self.heads * (2 * self.rank + self.rope_dim))
        return qo + self.kv_bytes_per_token * (context + chunk)


@dataclass(frozen=True, slots=True)
class DeltaAttention:
    """Linear attention by the gated delta rule, behind a short convolution (Gated DeltaNet, arXiv 2412.06464,
    section 3).

    A sequence keeps a matrix of head_dim x head_dim numbers a value head, whatever its length: no cache
    grows. Shapes: q, k [tokens, key_heads, head_dim], v and its gate [tokens, heads, head_dim].
    """

    heads: int  # of values; a multiple of the key heads
    key_heads: int
    head_dim: int
    conv_width: int = 4  # tokens that the convolution sees
    state: Format = FP32
    activations: Format = BF16
    kv_bytes_per_token = 0

    @property
    def conv_channels(self) -> int:
        return (self.heads + 2 * self.key_heads) * self.head_dim

    @property
    def parameters(self) -> int:
        """The convolution's weights, a decay and a bias of its step for each head."""
        return self.conv_width * self.conv_channels + 2 * self.heads

    @property
    def weight_bytes(self) -> int:
        return self.activations.num_bytes(self.parameters)

    @property
    def state_bytes(self) -> int:
        """Kept for each sequence: the heads' matrices, and the tokens that the convolution still sees."""
        matrices = self.state.num_bytes(self.heads * self.head_dim**2)
        return matrices + self.activations.num_bytes((self.conv_width - 1) * self.conv_channels)

    def flops(self, chunk: int) -> int:
        """Each token decays, corrects and reads every head's matrix."""
        update = 6 * self.heads * self.head_dim**2
        return chunk * (update + 2 * self.conv_width * self.conv_channels)

    def moved_bytes(self, chunk: int) -> int:
        """The state in and out once; q, k, v and the output once."""
        numbers = chunk * (self.conv_channels + self.heads * self.head_dim)
        return 2 * self.state_bytes + self.activations.num_bytes(numbers)
