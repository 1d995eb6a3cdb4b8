"""Operators of one transformer forward pass.

Pure: no parser, no torch, no GPU speeds. The agent, the estimator and the simulator all speak these
types. An operator is its shape on one rank and its formats (`formats.py`); the rows it runs over (tokens,
or sequences for the head) belong to the step and are arguments. FLOPs count a multiply and an add as
two (Kaplan et al. 2020, section 2.1). `attention.py` has the operators whose time depends on context,
`sharded.py` the programs made of operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.formats import BF16, Format


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
        """The message size as nccl-tests and the public tables count it: of an all-gather what each rank has
        after it, of all others what it has before.
        """
        ranks = self.degree if self.kind is CollectiveKind.ALL_GATHER else 1
        return self.format.num_bytes(rows * self.elements * ranks)


TokenOperator = (
    Linear | Norm | Rope | Activation | Add | Embedding | Router | Experts | KvWrite | Sample
)

SequenceOperator = Attention | LatentAttention | DeltaAttention

Operator = TokenOperator | SequenceOperator | Collective
