"""Programs of operators after sharding: what every rank of every pipeline stage launches and holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from servecast.compiler.ir import Embedding, Linear, Operator, SequenceOperator


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
