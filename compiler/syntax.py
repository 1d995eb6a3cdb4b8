"""What a `.llm` file says, with the place where it says it. Nothing is evaluated or checked here.

Places do not count in comparisons: two texts that say the same are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from servecast.compiler.errors import SpecError


@dataclass(frozen=True, slots=True)
class Span:
    """Where something stands: lines and columns from 1.

    ``end_column`` is exclusive and on ``line``, so that a caret can be drawn; ``end_line`` is where
    the last of it stands.
    """

    line: int
    column: int
    end_column: int
    end_line: int = 0


@dataclass(frozen=True, slots=True)
class SourceText:
    """A file's name and text, which every error quotes."""

    path: str
    text: str

    def error(self, at: Span, message: str) -> SpecError:
        """The error to raise for a fault at a place."""
        lines = self.text.split("\n")
        line = lines[at.line - 1] if at.line <= len(lines) else ""
        return SpecError(message, self.path, (at.line, at.column, at.end_column), line.rstrip("\r"))


@dataclass(frozen=True, slots=True)
class Number:
    value: int
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    symbol: str  # + - * /
    left: Expr
    right: Expr
    at: Span = field(compare=False)
    depth: int = field(default=1, compare=False)  # of the tree, so that evaluation may recurse


Expr = Number | Name | Binary


@dataclass(frozen=True, slots=True)
class FormatRef:
    """A number format as written: ``bf16``, ``fp8 per block 128``, ``int4 group 64``."""

    name: str
    block: int | None
    group: int | None
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Option:
    """What may follow an operator, by its keyword: ``split``, ``bias``, ``window``, ``weights``, …"""

    keyword: str
    at: Span = field(compare=False)
    size: Expr | None = None
    format: FormatRef | None = None
    word: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator. ``args`` are its sizes in the order written."""

    keyword: str
    args: tuple[Expr, ...]
    options: tuple[Option, ...]
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Residual:
    body: Body
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Parallel:
    """Bodies that read the same row and whose results are added."""

    bodies: tuple[Body, ...]
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """``body`` is None where a sibling only gives its base's repeat another count."""

    count: Expr
    body: Body | None
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ExpertsOperation:
    count: Expr
    choose: Expr
    options: tuple[Option, ...]
    body: Body
    always: Body
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class BlockCall:
    name: str
    at: Span = field(compare=False)


Statement = Operation | Residual | Parallel | Repeat | ExpertsOperation | BlockCall
Body = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Source:
    text: str
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Context:
    tokens: Expr
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class FormatSetting:
    role: str  # weights, activations, kv_cache, communication
    format: FormatRef
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Binding:
    name: str
    value: Expr
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    body: Body
    at: Span = field(compare=False)


Setting = Source | Context | FormatSetting | Binding | Block


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    like: str | None
    settings: tuple[Setting, ...]
    body: Body
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Quantity:
    value: float
    unit: str
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SkuItem:
    """One line of a GPU's datasheet: its keyword, quantities, and a word (format, link or source)."""

    keyword: str
    quantities: tuple[Quantity, ...]
    at: Span = field(compare=False)
    word: str = ""
    count: int = 0
    kind: str = ""  # of a price that is not the list's


@dataclass(frozen=True, slots=True)
class SkuDeclaration:
    name: str
    items: tuple[SkuItem, ...]
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SloTarget:
    metric: str
    statistic: str
    limit: Quantity
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SearchAxis:
    keyword: str  # skus, gpus, tp, …, or one of `llm.lark`'s WORD_AXIS
    words: tuple[str, ...]
    counts: tuple[int, ...]
    at: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ServiceDeclaration:
    name: str
    items: tuple[SloTarget | SearchAxis, ...]
    at: Span = field(compare=False)


Declaration = Model | SkuDeclaration | ServiceDeclaration


@dataclass(frozen=True, slots=True)
class File:
    source: SourceText
    declarations: tuple[Declaration, ...]
