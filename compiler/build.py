"""From Lark's tree to `syntax.py`, rule by rule; every method is named after its rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any  # a Lark child is a token or whatever its rule's method returned

from lark import Token, v_args
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive

from servecast.compiler import syntax as s

MAX_EXPRESSION_DEPTH = 60
MAX_NUMBER_DIGITS = 15

Children = list[Any]


def span_of(item: Token | Meta) -> s.Span:
    """The first line of a token or rule; one column wide where a rule is empty or spans lines."""
    line, column = getattr(item, "line", None) or 1, getattr(item, "column", None) or 1
    end_line, end_column = getattr(item, "end_line", line), getattr(item, "end_column", column + 1)
    return s.Span(line, column, end_column if end_line == line else column + 1, end_line)


def _unquoted(token: Token) -> str:
    return str(token)[1:-1]


def _named(name: Token, meta: Meta) -> s.Span:
    """A declaration stands at its name and ends with its bracket."""
    return replace(span_of(name), end_line=span_of(meta).end_line)


def _split(children: Children) -> tuple[tuple[Any, ...], tuple[s.Option, ...]]:
    """An operator's sizes, and its options."""
    options = tuple(c for c in children if isinstance(c, s.Option))
    return tuple(c for c in children if not isinstance(c, s.Option)), options


@v_args(meta=True)
class SyntaxBuilder(Transformer_NonRecursive[Token, Any]):
    """Bottom-up and without recursion, so that deep nesting cannot exhaust the stack."""

    def __init__(self, source: s.SourceText) -> None:
        super().__init__()
        self._source = source

    def _number(self, token: Token) -> str:
        digits = str(token).replace("_", "")
        count = len(digits.replace(".", ""))
        if count > MAX_NUMBER_DIGITS:
            message = f"{count} digits: a number has at most {MAX_NUMBER_DIGITS}"
            raise self._source.error(span_of(token), message)
        return digits

    def _int(self, token: Token) -> int:
        return int(self._number(token))

    # ---- expressions

    def number(self, _: Meta, children: Children) -> s.Number:
        return s.Number(self._int(children[0]), span_of(children[0]))

    def name(self, _: Meta, children: Children) -> s.Name:
        return s.Name(str(children[0]), span_of(children[0]))

    def _binary(self, symbol: str, meta: Meta, children: Children) -> s.Binary:
        left, right = children
        depth = 1 + max(getattr(left, "depth", 0), getattr(right, "depth", 0))
        if depth > MAX_EXPRESSION_DEPTH:
            message = (
                f"an expression nests at most {MAX_EXPRESSION_DEPTH} deep; name a part with let"
            )
            raise self._source.error(span_of(meta), message)
        return s.Binary(symbol, left, right, span_of(meta), depth)

    def add(self, meta: Meta, children: Children) -> s.Binary:
        return self._binary("+", meta, children)

    def sub(self, meta: Meta, children: Children) -> s.Binary:
        return self._binary("-", meta, children)

    def mul(self, meta: Meta, children: Children) -> s.Binary:
        return self._binary("*", meta, children)

    def div(self, meta: Meta, children: Children) -> s.Binary:
        return self._binary("/", meta, children)

    # ---- formats and options

    def plain_format(self, meta: Meta, children: Children) -> s.FormatRef:
        return s.FormatRef(str(children[0]), None, None, span_of(meta))

    def block_format(self, meta: Meta, children: Children) -> s.FormatRef:
        return s.FormatRef(str(children[0]), self._int(children[1]), None, span_of(meta))

    def group_format(self, meta: Meta, children: Children) -> s.FormatRef:
        return s.FormatRef(str(children[0]), None, self._int(children[1]), span_of(meta))

    def split(self, meta: Meta, children: Children) -> s.Option:
        by = children[1] if len(children) > 1 else None
        return s.Option("split", span_of(meta), size=by, word=str(children[0]))

    def flag(self, meta: Meta, children: Children) -> s.Option:
        return s.Option(str(children[0]), span_of(meta))

    def router_bias(self, meta: Meta, _: Children) -> s.Option:
        return s.Option("router bias", span_of(meta))

    def at_last_token(self, meta: Meta, _: Children) -> s.Option:
        return s.Option("at last_token", span_of(meta))

    def size(self, meta: Meta, children: Children) -> s.Option:
        return s.Option(str(children[0]), span_of(meta), size=children[1])

    def format_option(self, meta: Meta, children: Children) -> s.Option:
        return s.Option(str(children[0]), span_of(meta), format=children[1])

    def as_name(self, meta: Meta, children: Children) -> s.Option:
        return s.Option("as", span_of(meta), word=str(children[0]))

    # ---- operators

    def _operation(self, keyword: str, meta: Meta, children: Children) -> s.Operation:
        args, options = _split(children)
        return s.Operation(keyword, args, options, span_of(meta))

    def embedding(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("embedding", meta, children)

    def linear(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("linear", meta, children)

    def norm(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation(str(children[0]), meta, children[1:])

    part_norm = norm
    activation = norm

    def rope(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("rope", meta, children)

    def attention(self, meta: Meta, children: Children) -> s.Operation:
        """Without grouping there are as many KV heads as heads."""
        return self._operation("attention", meta, [children[0], *children])

    def grouped_attention(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("attention", meta, children)

    def latent_attention(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("attention latent", meta, children)

    def delta_attention(self, meta: Meta, children: Children) -> s.Operation:
        return self._operation("attention delta", meta, children)

    def body(self, _: Meta, children: Children) -> s.Body:
        return tuple(children)

    always = body

    def residual(self, meta: Meta, children: Children) -> s.Residual:
        return s.Residual(children[0], span_of(meta))

    def parallel(self, meta: Meta, children: Children) -> s.Parallel:
        return s.Parallel(tuple(children), span_of(meta))

    def repeat(self, meta: Meta, children: Children) -> s.Repeat:
        return s.Repeat(children[0], children[1] if len(children) > 1 else None, span_of(meta))

    def experts(self, meta: Meta, children: Children) -> s.ExpertsOperation:
        args, options = _split(children)
        always = args[3][0] if len(args) > 3 else ()
        return s.ExpertsOperation(args[0], args[1], options, args[2], always, span_of(meta))

    def block_call(self, meta: Meta, children: Children) -> s.BlockCall:
        return s.BlockCall(str(children[0]), span_of(meta))

    # ---- settings and models

    def source(self, meta: Meta, children: Children) -> s.Source:
        return s.Source(_unquoted(children[0]), span_of(meta))

    def context(self, meta: Meta, children: Children) -> s.Context:
        return s.Context(children[0], span_of(meta))

    def format_setting(self, meta: Meta, children: Children) -> s.FormatSetting:
        return s.FormatSetting(str(children[0]), children[1], span_of(meta))

    def binding(self, _: Meta, children: Children) -> s.Binding:
        return s.Binding(str(children[0]), children[1], span_of(children[0]))

    def let(self, _: Meta, children: Children) -> list[s.Binding]:
        return list(children)

    def block(self, meta: Meta, children: Children) -> s.Block:
        return s.Block(str(children[0]), children[1], span_of(meta))

    def like(self, _: Meta, children: Children) -> Token:
        token: Token = children[0]
        return token

    def model(self, meta: Meta, children: Children) -> s.Model:
        name, *rest = children
        like = _unquoted(rest.pop(0)) if rest and isinstance(rest[0], Token) else None
        settings: list[s.Setting] = []
        body: list[s.Statement] = []
        for child in rest:
            if isinstance(child, list):
                settings.extend(child)
            elif isinstance(child, s.Setting):
                settings.append(child)
            else:
                body.append(child)
        return s.Model(_unquoted(name), like, tuple(settings), tuple(body), _named(name, meta))

    # ---- GPUs and services

    def quantity(self, meta: Meta, children: Children) -> s.Quantity:
        number, unit = children
        return s.Quantity(float(self._number(number)), str(unit), span_of(meta))

    def _sku_item(self, keyword: str, meta: Meta, children: Children) -> s.SkuItem:
        quantities = tuple(c for c in children if isinstance(c, s.Quantity))
        words = [c for c in children if isinstance(c, Token) and c.type != "INT"]
        counts = [self._int(c) for c in children if isinstance(c, Token) and c.type == "INT"]
        word = str(words[0]).strip('"') if words else ""
        return s.SkuItem(keyword, quantities, span_of(meta), word, counts[0] if counts else 0)

    def memory(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("memory", meta, children)

    def bandwidth(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("bandwidth", meta, children)

    def peak(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("peak", meta, children)

    def node(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("node", meta, children)

    def between_nodes(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("between nodes", meta, children)

    def power(self, meta: Meta, children: Children) -> s.SkuItem:
        return self._sku_item("power", meta, children)

    def price(self, meta: Meta, children: Children) -> s.SkuItem:
        kinds = [c for c in children if isinstance(c, Token) and c.type == "PRICE_KIND"]
        rest = [c for c in children if c not in kinds]
        return replace(self._sku_item("price", meta, rest), kind=str(kinds[0]) if kinds else "")

    def sku(self, meta: Meta, children: Children) -> s.SkuDeclaration:
        name, *items = children
        return s.SkuDeclaration(_unquoted(name), tuple(items), _named(name, meta))

    def slo_target(self, meta: Meta, children: Children) -> s.SloTarget:
        metric, statistic, limit = children
        return s.SloTarget(str(metric), str(statistic), limit, span_of(meta))

    def slug(self, _: Meta, children: Children) -> str:
        return str(children[0]).strip('"')

    def _axis(self, keyword: str, meta: Meta, children: Children) -> s.SearchAxis:
        words = tuple(c for c in children if not isinstance(c, Token))
        counts = tuple(self._int(c) for c in children if isinstance(c, Token))
        return s.SearchAxis(keyword, words, counts, span_of(meta))

    def sku_axis(self, meta: Meta, children: Children) -> s.SearchAxis:
        return self._axis("skus", meta, children)

    def word_axis(self, meta: Meta, children: Children) -> s.SearchAxis:
        return self._axis(str(children[0]), meta, children[1:])

    def gpu_limit(self, meta: Meta, children: Children) -> s.SearchAxis:
        return self._axis("gpus", meta, children)

    def count_axis(self, meta: Meta, children: Children) -> s.SearchAxis:
        return self._axis(str(children[0]), meta, children[1:])

    def search(self, _: Meta, children: Children) -> list[s.SearchAxis]:
        return list(children)

    def service(self, meta: Meta, children: Children) -> s.ServiceDeclaration:
        name, *rest = children
        items: list[s.SloTarget | s.SearchAxis] = []
        for child in rest:
            items.extend(child if isinstance(child, list) else [child])
        return s.ServiceDeclaration(_unquoted(name), tuple(items), _named(name, meta))

    def start(self, _: Meta, children: Children) -> s.File:
        return s.File(self._source, tuple(children))
