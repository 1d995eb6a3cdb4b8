"""From text to syntax: the Lark parser, its limits, and its errors in words."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from lark import Lark
from lark.exceptions import UnexpectedInput, VisitError
from lark.lexer import PatternRE, PatternStr, TerminalDef

from servecast.compiler import syntax
from servecast.compiler.build import SyntaxBuilder
from servecast.compiler.errors import SpecError
from servecast.compiler.syntax_errors import syntax_error

# All shipped specs together are half of it; the worst text of that size parses in half a second.
MAX_TEXT_BYTES = 48 * 1024
MAX_NESTING = 40
KEYWORD_PRIORITY = 2  # over names

_KEYWORD = re.compile(r"[a-z_]{2,}")
_SKIPPED = re.compile(r'"[^"\n]*"|#[^\n]*')


def _end_at_words(terminal: TerminalDef) -> None:
    """A keyword ends where the word ends: `last_tokens` is not `last_token` and an `s`."""
    if isinstance(terminal.pattern, PatternStr) and _KEYWORD.fullmatch(terminal.pattern.value):
        terminal.pattern = PatternRE(f"{terminal.pattern.value}\\b")
        terminal.priority = KEYWORD_PRIORITY


@cache
def grammar() -> Lark:
    """The parser of `llm.lark`, made once."""
    rules = files("servecast.compiler").joinpath("llm.lark").read_text(encoding="utf-8")
    return Lark(
        rules,
        parser="lalr",
        lexer="contextual",
        propagate_positions=True,
        maybe_placeholders=False,
        start=["start", "slo_target"],
        edit_terminals=_end_at_words,
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
        tree = grammar().parse(source.text, start=start)
        return SyntaxBuilder(source).transform(tree)
    except UnexpectedInput as error:
        raise syntax_error(source, error, grammar()) from None
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
