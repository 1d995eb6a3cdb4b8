"""The row that runs through a model while it is lowered: its width, and how ranks hold it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from servecast.compiler import syntax as s
from servecast.compiler.attention import Attention
from servecast.compiler.check import Definition, find_format
from servecast.compiler.formats import Format
from servecast.compiler.ir import Collective, CollectiveKind, Linear, Operator
from servecast.compiler.program import Formats, Site, Split
from servecast.compiler.sharded import Rows
from servecast.compiler.suggest import did_you_mean

PART_NORM = "part_norm"  # a norm in place on parts of a row, until attention says of what


@dataclass(slots=True)
class Flow:
    """``width`` numbers a token, of which ``kept`` are alike on every rank.

    ``split``: the others are divided among the ranks. ``partial``: each rank holds a share of the
    sum. ``since_split`` indexes the first site after the last column split.
    """

    width: int
    line: int  # of the operator that put the row out
    sites: list[Site] = field(default_factory=list)
    split: bool = False
    partial: bool = False
    kept: int = 0
    since_split: int = 0

    def branch(self) -> Flow:
        """The same row with no sites of its own yet."""
        return Flow(self.width, self.line)


@dataclass(frozen=True, slots=True)
class Context:
    """What lowering an operator needs besides the row."""

    definition: Definition
    formats: Formats

    @property
    def source(self) -> s.SourceText:
        return self.definition.scope.source

    def positive(self, expr: s.Expr, what: str) -> int:
        return self.definition.scope.positive(expr, what)


@dataclass(frozen=True, slots=True)
class Options:
    """An operator's options by keyword, each allowed and given once."""

    context: Context
    given: dict[str, s.Option]

    def size(self, keyword: str) -> int | None:
        option = self.given.get(keyword)
        if option is None or option.size is None:
            return None
        return self.context.positive(option.size, keyword)

    def format(self, role: str, default: Format) -> Format:
        option = self.given.get(role)
        if option is None or option.format is None:
            return default
        return find_format(option.format, self.context.source)

    def word(self, keyword: str) -> str | None:
        option = self.given.get(keyword)
        return option.word if option else None

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.given


def read_options(
    context: Context, keyword: str, options: tuple[s.Option, ...], allowed: tuple[str, ...]
) -> Options:
    """The options of an operator.

    Raises:
        SpecError: the operator takes no such option, or it is given twice.
    """
    given: dict[str, s.Option] = {}
    for option in options:
        if option.keyword not in allowed:
            hint = did_you_mean(option.keyword, allowed)
            takes = ", ".join(allowed) if allowed else "no options"
            message = f"{keyword} takes no {option.keyword!r}{hint}; it takes {takes}"
            raise context.source.error(option.at, message)
        if option.keyword in given:
            raise context.source.error(option.at, f"{option.keyword!r} is given twice")
        given[option.keyword] = option
    return Options(context, given)


def expect_width(context: Context, flow: Flow, width: int, at: s.Span, keyword: str) -> None:
    """What an operator takes in must be what the one before it puts out."""
    if flow.width != width:
        message = (
            f"{keyword} takes a row of {width:,} numbers, "
            f"but line {flow.line} puts out {flow.width:,}"
        )
        raise context.source.error(at, message)


def expect_whole(context: Context, flow: Flow, at: s.Span, keyword: str) -> None:
    if flow.split:
        message = (
            f"{keyword} needs whole rows, but line {flow.line} leaves them split by columns; "
            "a linear with split rows joins them"
        )
        raise context.source.error(at, message)


def expect_groups(context: Context, weights: Format, features: int, at: s.Span) -> None:
    """Weight-only formats scale groups of weights along the input features."""
    if weights.name.startswith("int4") and features % weights.scale_elements:
        message = (
            f"{features:,} input features do not divide into groups of "
            f"{weights.scale_elements:,} for int4"
        )
        raise context.source.error(at, message)


def add_site(flow: Flow, site: Site) -> None:
    flow.sites.append(site)
    flow.line = site.line or flow.line


def join(flow: Flow, formats: Formats) -> None:
    """Ends a partial sum with an all-reduce."""
    if not flow.partial:
        return
    name = f"{flow.sites[-1].name}_all_reduce"
    op = Collective(CollectiveKind.ALL_REDUCE, flow.width, 1, format=formats.communication)
    flow.sites.append(Site(name, op, Split.JOIN, line=flow.line))
    flow.partial = False


def feed(flow: Flow, attention: Attention) -> None:
    """Marks the sites since the column split as preparing this attention's input, and names them."""
    head_norms = iter(("q_norm", "k_norm"))
    for i in range(flow.since_split, len(flow.sites)):
        site = flow.sites[i]
        if site.split is not Split.COLUMNS:
            continue
        name = site.name
        if isinstance(site.op, Linear) and name == "linear":
            name = "qkv_proj"
        elif name == PART_NORM:
            name = next(head_norms, name)
        flow.sites[i] = replace(site, feeds=attention, name=name)


def site_of(name: str, op: Operator, flow: Flow, at: s.Span, rows: Rows = Rows.TOKENS) -> Site:
    """A site that is cut as its row is."""
    split = Split.COLUMNS if flow.split else Split.WHOLE
    return Site(name, op, split, rows, line=at.line)
