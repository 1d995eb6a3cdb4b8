"""A model as operators, before sharding: each launch site with how tensor parallelism cuts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from servecast.compiler.formats import BF16, Format
from servecast.compiler.ir import Operator, SequenceOperator
from servecast.compiler.sharded import Rows


class Split(StrEnum):
    """What a tensor-parallel rank runs of an operator."""

    WHOLE = "whole"  # all of it, as every other rank does
    COLUMNS = "columns"  # its share of the output features, heads or numbers of a row
    ROWS = "rows"  # its share of the input features; the results are summed at the next JOIN
    JOIN = "join"  # a collective, written with degree 1 and every rank's elements


@dataclass(frozen=True, slots=True)
class Formats:
    """The model's number formats.

    ``weights`` are those of linear layers and experts; embedding, head, router and norms stay in
    ``wide`` unless an operator says otherwise, as published quantised checkpoints have it.
    """

    weights: Format = BF16
    activations: Format = BF16  # what enters linear layers and experts
    kv_cache: Format = BF16
    communication: Format = BF16
    wide: Format = BF16  # everything else: the residual stream, norms, attention


@dataclass(frozen=True, slots=True)
class Site:
    """One unsharded launch site.

    ``feeds`` is the attention whose input a site before it prepares: its heads say how the row is
    cut. ``groups``: no rank gets less than one of so many equal parts (0: no such bound).
    """

    name: str
    op: Operator
    split: Split = Split.WHOLE
    rows: Rows = Rows.TOKENS
    feeds: SequenceOperator | None = None
    groups: int = 0
    line: int = field(default=0, compare=False)  # in the spec


@dataclass(frozen=True, slots=True)
class LayerRun:
    """``count`` identical layers in a row. A pipeline may be cut between any two layers."""

    name: str
    sites: tuple[Site, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Program:
    model: str
    path: str  # of the spec, for messages
    source: str
    context_tokens: int
    hidden: int  # width of the residual stream
    formats: Formats
    prologue: tuple[Site, ...]
    layers: tuple[LayerRun, ...]
    epilogue: tuple[Site, ...]

    @property
    def num_layers(self) -> int:
        return sum(run.count for run in self.layers)

    @property
    def runs(self) -> tuple[LayerRun, ...]:
        """Everything in order, prologue and epilogue as runs of one."""
        prologue = LayerRun("prologue", self.prologue, 1)
        return (prologue, *self.layers, LayerRun("epilogue", self.epilogue, 1))

    @property
    def parameters(self) -> int:
        return sum(run.count * site.op.parameters for run in self.runs for site in run.sites)

    @property
    def kv_bytes_per_token(self) -> int:
        """Cache bytes of one more token of context in all layers, windows ignored."""
        return sum(
            run.count * site.op.kv_bytes_per_token
            for run in self.layers
            for site in run.sites
            if isinstance(site.op, SequenceOperator)
        )
