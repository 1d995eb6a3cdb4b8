"""Operators of one transformer forward pass, and the programs made of them, before and after sharding.

Pure: no parser, no torch, no GPU speeds. The agent, the estimator and the simulator all speak these
types. An operator is its shape on one rank and its formats; the rows it runs over (tokens, or
sequences for the head) belong to the step and are arguments. FLOPs count a multiply and an add as
two (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are held: their bits, and the bits of the scale that a block of them shares."""

    name: str
    bits: int
    scale_bits: int = 0
    scale_elements: int = 1
    block_side: int | None = None  # of the square of a matrix that shares a scale, where it is one

    def num_bytes(self, elements: int) -> int:
        """Bytes of ``elements`` numbers with their scales, rounded up."""
        scales = -(-elements // self.scale_elements) if self.scale_bits else 0
        return -(-(elements * self.bits + scales * self.scale_bits) // 8)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix with its scales; squares at its edges have a scale of their own."""
        if self.block_side is None:
            return self.num_bytes(rows * columns)
        squares = -(-rows // self.block_side) * -(-columns // self.block_side)
        return -(-(rows * columns * self.bits + squares * self.scale_bits) // 8)


FP32 = Format("fp32", 32)
BF16 = Format("bf16", 16)
FP16 = Format("fp16", 16)
FP8 = Format("fp8", 8)
INT8 = Format("int8", 8)
FP8_BLOCK = Format("fp8_block", 8, scale_bits=32, scale_elements=128 * 128, block_side=128)
NVFP4 = Format("nvfp4", 4, scale_bits=8, scale_elements=16)
MXFP4 = Format("mxfp4", 4, scale_bits=8, scale_elements=32)
FORMATS = {f.name: f for f in (FP32, BF16, FP16, FP8, INT8, FP8_BLOCK, NVFP4, MXFP4)}


def int4(group: int) -> Format:
    """Weight-only INT4 with an fp16 scale per ``group`` weights (AWQ, GPTQ)."""
    return Format(f"int4_g{group}", 4, scale_bits=16, scale_elements=group)


class NormKind(StrEnum):
    RMS = "rms_norm"
    LAYER = "layer_norm"


class ActivationKind(StrEnum):
    """Gated kinds read ``2 * width`` numbers a row and write ``width``."""

    SWIGLU = "swiglu"
    GEGLU = "geglu"
    GELU = "gelu"
    RELU = "relu"
    SILU = "silu"

    @property
    def gated(self) -> bool:
        return self in (ActivationKind.SWIGLU, ActivationKind.GEGLU)


class CollectiveKind(StrEnum):
    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = x @ w + b`` with x [rows, in_features] and w [in_features, out_features]."""

    in_features: int
    out_features: int
    weights: Format = BF16
    activations: Format = BF16
    bias: bool = False
    tied: bool = False  # shares its weights with the embedding

    @property
    def parameters(self) -> int:
        weights = 0 if self.tied else self.in_features * self.out_features
        return weights + (self.out_features if self.bias else 0)

    @property
    def weight_bytes(self) -> int:
        """Bytes read per launch, also when another operator owns them."""
        bias = self.activations.num_bytes(self.out_features) if self.bias else 0
        return self.weights.matrix_bytes(self.in_features, self.out_features) + bias

    def flops(self, rows: int) -> int:
        return 2 * rows * self.in_features * self.out_features

    def moved_bytes(self, rows: int) -> int:
        return self.weight_bytes + self.activations.num_bytes(
            rows * (self.in_features + self.out_features)
        )


@dataclass(frozen=True, slots=True)
class Norm:
    """Normalises rows of ``width``, ``per_row`` of them for each row of the step (q/k norms: heads)."""

    kind: NormKind
    width: int
    per_row: int = 1
    adds_residual: bool = False
    activations: Format = BF16

    @property
    def parameters(self) -> int:
        return self.width * (2 if self.kind is NormKind.LAYER else 1)

    @property
    def weight_bytes(self) -> int:
        return self.activations.num_bytes(self.parameters)

    def flops(self, rows: int) -> int:
        return 4 * rows * self.per_row * self.width

    def moved_bytes(self, rows: int) -> int:
        passes = 4 if self.adds_residual else 2
        return self.weight_bytes + self.activations.num_bytes(
            passes * rows * self.per_row * self.width
        )


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotates ``rotary_dim`` of each head's ``head_dim`` numbers, in place, for q and k heads."""

    heads: int
    head_dim: int
    rotary_dim: int
    activations: Format = BF16
    parameters = 0
    weight_bytes = 0

    def flops(self, rows: int) -> int:
        return 3 * rows * self.heads * self.rotary_dim

    def moved_bytes(self, rows: int) -> int:
        return self.activations.num_bytes(2 * rows * self.heads * self.rotary_dim)


@dataclass(frozen=True, slots=True)
class Activation:
    kind: ActivationKind
    width: int
    activations: Format = BF16
    parameters = 0
    weight_bytes = 0

    def flops(self, rows: int) -> int:
        return 4 * rows * self.width

    def moved_bytes(self, rows: int) -> int:
        return self.activations.num_bytes((3 if self.kind.gated else 2) * rows * self.width)


@dataclass(frozen=True, slots=True)
class Add:
    """A residual addition that no neighbour fuses."""

    width: int
    activations: Format = BF16
    parameters = 0
    weight_bytes = 0

    def flops(self, rows: int) -> int:
        return rows * self.width

    def moved_bytes(self, rows: int) -> int:
        return self.activations.num_bytes(3 * rows * self.width)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Looks up rows of a [vocab, width] table."""

    vocab: int
    width: int
    weights: Format = BF16

    @property
    def parameters(self) -> int:
        return self.vocab * self.width

    @property
    def weight_bytes(self) -> int:
        """Bytes held; a launch reads only its rows."""
        return self.weights.num_bytes(self.parameters)

    def flops(self, rows: int) -> int:
        return 0

    def moved_bytes(self, rows: int) -> int:
        return self.weights.num_bytes(2 * rows * self.width)


@dataclass(frozen=True, slots=True)
class Router:
    """Scores ``experts`` for each row and picks ``top_k``."""

    hidden: int
    experts: int
    top_k: int
    bias: bool = False
    weights: Format = BF16

    @property
    def parameters(self) -> int:
        return self.hidden * self.experts + (self.experts if self.bias else 0)

    @property
    def weight_bytes(self) -> int:
        return self.weights.num_bytes(self.parameters)

    def flops(self, rows: int) -> int:
        return 2 * rows * self.hidden * self.experts

    def moved_bytes(self, rows: int) -> int:
        return self.weight_bytes + self.weights.num_bytes(rows * (self.hidden + self.experts))


@dataclass(frozen=True, slots=True)
class Experts:
    """Grouped two-layer experts: ``experts`` of ``total_experts`` live on this rank.

    ``intermediate`` is one expert's share on this rank. Work and bytes are expectations under
    uniform routing.
    """

    hidden: int
    intermediate: int
    experts: int
    total_experts: int
    top_k: int
    activation: ActivationKind = ActivationKind.SWIGLU
    weights: Format = BF16
    activations: Format = BF16
    bias: bool = False

    @property
    def _up_width(self) -> int:
        return self.intermediate * (2 if self.activation.gated else 1)

    @property
    def _expert_matrices(self) -> int:
        return self.hidden * (self._up_width + self.intermediate)

    @property
    def parameters(self) -> int:
        bias = self._up_width + self.hidden if self.bias else 0
        return self.experts * (self._expert_matrices + bias)

    @property
    def weight_bytes(self) -> int:
        bias = self.experts * (self._up_width + self.hidden) if self.bias else 0
        up = self.weights.matrix_bytes(self.hidden, self._up_width)
        down = self.weights.matrix_bytes(self.intermediate, self.hidden)
        return self.experts * (up + down) + self.activations.num_bytes(bias)

    def routed_rows(self, rows: int) -> float:
        """Expected (row, expert) pairs that fall on this rank."""
        return rows * self.top_k * self.experts / self.total_experts

    def flops(self, rows: int) -> int:
        return round(2 * self.routed_rows(rows) * self._expert_matrices)

    def moved_bytes(self, rows: int) -> int:
        untouched = (1 - self.top_k / self.total_experts) ** rows
        touched = self.weight_bytes * (1 - untouched)
        width = self.hidden * 2 + self._up_width + self.intermediate
        return round(touched) + self.activations.num_bytes(round(self.routed_rows(rows) * width))


@dataclass(frozen=True, slots=True)
class KvWrite:
    """Stores a row's new keys and values in the paged cache."""

    width: int  # numbers per row: kv heads x (key + value), or the latent width
    kv: Format = BF16
    parameters = 0
    weight_bytes = 0

    def flops(self, rows: int) -> int:
        return 0

    def moved_bytes(self, rows: int) -> int:
        return self.kv.num_bytes(rows * self.width) + 2 * rows * self.width


@dataclass(frozen=True, slots=True)
class Sample:
    """Turns a row of ``vocab`` logits into one token."""

    vocab: int
    parameters = 0
    weight_bytes = 0

    def flops(self, rows: int) -> int:
        return 4 * rows * self.vocab

    def moved_bytes(self, rows: int) -> int:
        return 2 * 4 * rows * self.vocab


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
class Collective:
    """A collective over ``degree`` ranks; ``elements`` numbers per row on each rank before it."""

    kind: CollectiveKind
    elements: int
    degree: int
    group: str = "tp"  # tp, pp, ep or dp: which ranks take part
    format: Format = BF16
    parameters = 0
    weight_bytes = 0

    def payload_bytes(self, rows: int) -> int:
        """The message size as nccl-tests and the public tables count it."""
        return self.format.num_bytes(rows * self.elements)


TokenOperator = (
    Linear | Norm | Rope | Activation | Add | Embedding | Router | Experts | KvWrite | Sample
)
SequenceOperator = Attention | LatentAttention
Operator = TokenOperator | SequenceOperator | Collective


class Rows(StrEnum):
    """What a launch's rows are: every token of the step, or the last token of each sequence."""

    TOKENS = "tokens"
    LAST_TOKENS = "last_tokens"


@dataclass(frozen=True, slots=True)
class Call:
    """One launch site: what the model calls it, the operator, and its rows.

    A launch has ``row_factor`` rows for each of the step's: dp for experts that every data-parallel
    rank's rows reach, 1/tp between a reduce-scatter and the all-gather after it, 1 anywhere else.
    """

    name: str
    op: Operator
    rows: Rows = Rows.TOKENS
    row_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` identical layers in a row (or one prologue or epilogue), each making ``calls``."""

    name: str
    calls: tuple[Call, ...]
    count: int = 1


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of one replica: tensor, pipeline, expert, and data-parallel attention.

    A stage has tp x dp ranks. Its experts are dealt to ``ep`` groups of them and cut within a group
    (ep 1: cut over all). ``sequence``: norms run on each rank's share of the rows.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    sequence: bool = False

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True)
class Stage:
    """What every rank of one pipeline stage runs; tensor-parallel ranks are alike."""

    index: int
    runs: tuple[Run, ...]

    @property
    def weight_bytes(self) -> int:
        """Weights held by one rank; a tied head beside its embedding is held once."""
        owns_table = any(isinstance(c.op, Embedding) for r in self.runs for c in r.calls)
        return sum(
            run.count * call.op.weight_bytes
            for run in self.runs
            for call in run.calls
            if not (owns_table and isinstance(call.op, Linear) and call.op.tied)
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Cache bytes that one more token of context takes on one rank, windows ignored."""
        return sum(
            run.count * call.op.kv_bytes_per_token
            for run in self.runs
            for call in run.calls
            if isinstance(call.op, SequenceOperator)
        )


@dataclass(frozen=True, slots=True)
class ShardedProgram:
    """One replica of a model at one parallelism. ``notes`` say what a reader should know of the plan."""

    model: str
    context_tokens: int
    parallelism: Parallelism
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
