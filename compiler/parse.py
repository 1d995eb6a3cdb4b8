"""From text to syntax: the Lark parser, its limits, and its errors in words."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from lark import Lark, Token, UnexpectedCharacters, UnexpectedToken
from lark.exceptions import UnexpectedInput, VisitError

from servecast.compiler import syntax
from servecast.compiler.build import SyntaxBuilder, span_of
from servecast.compiler.errors import SpecError
from servecast.compiler.suggest import did_you_mean

MAX_TEXT_BYTES = 1 << 20
MAX_NESTING = 40

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SKIPPED = re.compile(r'"[^"\n]*"|#[^\n]*')

# How the grammar's patterns are called in messages; literals are quoted as they are.
_TERMINAL_WORDS = {
    "NAME": "a name",
    "INT": "a whole number",
    "NUMBER": "a number",
    "STRING": 'a "text"',
    "UNIT": "a unit",
    "SLUG": "a name",
    "STATISTIC": "p50, p90, p99, … or mean",
    "$END": "the end of the file",
    "FORMAT_ROLE": "weights, activations, kv_cache, communication",
    "NORM": "rms_norm, layer_norm",
    "ACTIVATION": "swiglu, geglu, gelu, relu, silu",
    "SIDE": "columns, rows",
    "FLAG": "bias, tied, sinks",
    "SIZE": "window, dims, keep, value",
    "AXIS": "tp, pp, batch, chunk",
}


@cache
def _lark() -> Lark:
    grammar = files("servecast.compiler").joinpath("llm.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        propagate_positions=True,
        maybe_placeholders=False,
        start=["start", "slo_target"],
    )


def parse(text: str, path: str) -> syntax.File:
    """The declarations of a file. ``path`` is only quoted in errors.

    Raises:
        SpecError: the text is not in the language, or exceeds a limit.
    """
    result = _parse(syntax.SourceText(path, text), "start")
    assert isinstance(result, syntax.File)
    return result


def parse_slo_target(text: str, path: str) -> syntax.SloTarget:
    """One latency target, as ``ttft p90 < 2 s``."""
    result = _parse(syntax.SourceText(path, text), "slo_target")
    assert isinstance(result, syntax.SloTarget)
    return result


def _parse(source: syntax.SourceText, start: str) -> object:
    _check_limits(source)
    try:
        tree = _lark().parse(source.text, start=start)
        return SyntaxBuilder(source).transform(tree)
    except UnexpectedInput as error:
        raise _syntax_error(source, error) from None
    except VisitError as error:
        if isinstance(error.orig_exc, SpecError):
            raise error.orig_exc from None
        raise


def _check_limits(source: syntax.SourceText) -> None:
    start = syntax.Span(1, 1, 2)
    num_bytes = len(source.text.encode("utf-8", errors="replace"))
    if num_bytes > MAX_TEXT_BYTES:
        raise source.error(
            start, f"the text has {num_bytes:,} bytes; a spec has at most {MAX_TEXT_BYTES:,}"
        )
    depth = 0
    code = _SKIPPED.sub(lambda match: " " * len(match.group()), source.text)
    for match in re.finditer(r"[{}()]", code):
        depth = depth + 1 if match.group() in "{(" else max(0, depth - 1)
        if depth > MAX_NESTING:
            line = code.count("\n", 0, match.start()) + 1
            column = match.start() - (code.rfind("\n", 0, match.start()) + 1) + 1
            at = syntax.Span(line, column, column + 1)
            raise source.error(at, f"brackets nest at most {MAX_NESTING} deep")


def _syntax_error(source: syntax.SourceText, error: UnexpectedInput) -> SpecError:
    expected = _expected(error)
    if isinstance(error, UnexpectedCharacters):
        at = syntax.Span(error.line, error.column, error.column + 1)
        found = source.text[error.pos_in_stream or 0]
        what = "a text without its closing quote" if found == '"' else f"unexpected {found!r}"
        return source.error(at, f"{what}; expected {_either(expected)}")
    assert isinstance(error, UnexpectedToken)
    if error.token.type == "$END":
        return source.error(
            _end_of(source.text), f"the file ends here; expected {_either(expected)}"
        )
    opener = _misspelt_opener(source, error.token)
    if opener is not None:
        return opener
    hint = did_you_mean(str(error.token), _words(expected))
    return source.error(
        span_of(error.token), f"unexpected {str(error.token)!r}; expected {_either(expected)}{hint}"
    )


def _expected(error: UnexpectedInput) -> list[str]:
    """What could have stood there, in words, keywords first."""
    if isinstance(error, UnexpectedToken):
        names = set(error.accepts or error.expected)
    else:
        names = set(getattr(error, "allowed", None) or ())
    shown = []
    for name in names:
        if name in _TERMINAL_WORDS:
            shown.append(_TERMINAL_WORDS[name])
        elif name != "COMMENT" and not name.startswith("__IGNORE"):
            shown.append(f"{_lark().get_terminal(name).pattern.value!r}")
    return sorted(set(shown), key=lambda word: (not word.startswith("'"), word))


def _words(expected: list[str]) -> list[str]:
    return _WORD.findall(" ".join(word for word in expected if not word.startswith("a ")))


def _either(expected: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(expected[:-1]), *expected[-1:]]))


def statement_words() -> list[str]:
    """The words that can open an operator, for suggestions."""
    literals = "embedding linear rope attention residual parallel repeat experts"
    patterns = (_TERMINAL_WORDS["NORM"], _TERMINAL_WORDS["ACTIVATION"])
    return _WORD.findall(" ".join([literals, *patterns]))


def _misspelt_opener(source: syntax.SourceText, token: Token) -> SpecError | None:
    """A misspelt operator reads as a block's name, and the fault shows only at the word after it."""
    line_text = source.text.split("\n")[(token.line or 1) - 1]
    for match in _WORD.finditer(line_text[: (token.column or 1) - 1]):
        word = match.group()
        hint = did_you_mean(word, statement_words())
        before = line_text[: match.start()].rstrip()
        if hint and word not in statement_words() and (not before or before[-1] in "{}"):
            at = syntax.Span(token.line or 1, match.start() + 1, match.end() + 1)
            return source.error(at, f"unknown operator {word!r}{hint}")
    return None


def _end_of(text: str) -> syntax.Span:
    lines = text.rstrip().split("\n")
    column = len(lines[-1]) + 1
    return syntax.Span(len(lines), column, column + 1)
