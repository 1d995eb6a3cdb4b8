"""One statement as canonical text, without its place on the page."""

from __future__ import annotations

from decimal import Decimal

from servecast.compiler import syntax as s


def expression_text(expr: s.Expr) -> str:
    """Sums are spaced, products tight, unless a factor needs brackets."""
    match expr:
        case s.Number():
            return str(expr.value)
        case s.Name():
            return expr.name
        case s.Binary(symbol="+" | "-"):
            right = expression_text(expr.right)
            if isinstance(expr.right, s.Binary) and expr.right.symbol in "+-":
                right = f"({right})"
            return f"{expression_text(expr.left)} {expr.symbol} {right}"
        case s.Binary():
            left, right = _factor(expr.left), _factor(expr.right)
            if isinstance(expr.right, s.Binary) and expr.right.symbol in "*/":
                right = f"({right})"
            gap = " " if "(" in left + right else ""
            return f"{left}{gap}{expr.symbol}{gap}{right}"


def _factor(expr: s.Expr) -> str:
    text = expression_text(expr)
    return f"({text})" if isinstance(expr, s.Binary) and expr.symbol in "+-" else text


def atom_text(expr: s.Expr) -> str:
    """An expression that stands before a slash or an x."""
    text = expression_text(expr)
    return f"({text})" if isinstance(expr, s.Binary) else text


def format_text(ref: s.FormatRef) -> str:
    if ref.block is not None:
        return f"{ref.name} per block {ref.block}"
    return ref.name if ref.group is None else f"{ref.name} group {ref.group}"


def option_text(option: s.Option) -> str:
    match option:
        case s.Option(keyword="split"):
            by = "" if option.size is None else f" by {expression_text(option.size)}"
            return f"split {option.word}{by}"
        case s.Option(size=size) if size is not None:
            return f"{option.keyword} {expression_text(size)}"
        case s.Option(format=ref) if ref is not None:
            return f"{option.keyword} {format_text(ref)}"
        case s.Option(word=word) if word is not None:
            return f"{option.keyword} {word}"
        case _:
            return option.keyword


def options_text(options: tuple[s.Option, ...]) -> str:
    """Two blanks before each option."""
    return "".join(f"  {option_text(option)}" for option in options)


def operation_words(op: s.Operation) -> tuple[str, str]:
    """The keyword, and what follows it."""
    args = [expression_text(arg) for arg in op.args]
    match op.keyword:
        case "linear" | "embedding":
            rest = f"{args[0]} -> {args[1]}"
        case "attention":
            heads, kv_heads, _ = op.args
            grouped = "" if heads is kv_heads else f"/{atom_text(kv_heads)}"
            rest = f"{atom_text(heads)}{grouped} x {args[2]}"
        case "attention latent":
            rest = f"latent {atom_text(op.args[0])} x {args[1]} rank {args[2]} rope {args[3]}"
        case "attention delta":
            rest = f"delta {atom_text(op.args[0])}/{atom_text(op.args[1])} x {args[2]}"
        case "rope":
            rest = f"{_before_x(op.args[0])} x {args[1]}"
        case _:
            rest = f"{_before_x(op.args[0])} x {args[1]}" if len(args) == 2 else args[0]
    keyword = op.keyword.split()[0]
    return keyword, rest + options_text(op.options)


def _before_x(expr: s.Expr) -> str:
    return _factor(expr)


def quantity_text(quantity: s.Quantity) -> str:
    number = f"{Decimal(repr(quantity.value)):f}".removesuffix(".0")  # no exponents in the language
    return f"{number} {quantity.unit}"


def sku_item_text(item: s.SkuItem) -> str:
    quantities = [quantity_text(quantity) for quantity in item.quantities]
    match item.keyword:
        case "peak":
            return f"peak {item.word} {quantities[0]}"
        case "node":
            return f"node {item.count} linked {item.word} {quantities[0]}"
        case "power":
            return f"power idle {quantities[0]}  peak {quantities[1]}"
        case "price":
            source = f' source "{item.word}"' if item.word else ""
            kind = f"{item.kind} " if item.kind else ""
            return f"price {kind}{quantities[0]}{source}"
        case _:
            return f"{item.keyword} {quantities[0]}"


def axis_text(axis: s.SearchAxis) -> str:
    if axis.keyword == "gpus":
        return f"gpus <= {axis.counts[0]}"
    words = [slug_text(word) for word in axis.words] + [str(count) for count in axis.counts]
    return f"{axis.keyword} {', '.join(words)}"


def slug_text(word: str) -> str:
    plain = word and word[0].isalnum() and all(c.isalnum() or c in "._-" for c in word)
    return word if plain and word.isascii() else f'"{word}"'
