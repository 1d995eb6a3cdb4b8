"""What was expected, in words: Lark's errors as errors that a person can act on."""

from __future__ import annotations

import re

from lark import Lark, Token, UnexpectedCharacters, UnexpectedToken
from lark.exceptions import UnexpectedInput

from servecast.compiler import syntax
from servecast.compiler.build import span_of
from servecast.compiler.errors import SpecError
from servecast.compiler.suggest import did_you_mean
from servecast.compiler.words import OPENING_WORDS, OPTION_WORDS, SETTING_WORDS

MAX_EXPECTED = 80  # characters; a stray sign needs no longer list of what may stand in its place
SETTING_LENGTH = 3  # words of a format setting, as far as they read as blocks
_COMMENT = re.compile(r"#[^\n]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# How the grammar's patterns are called in messages; literals are quoted as they are.
_PATTERN_WORDS = {
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
    "AXIS": "tp, pp, ep, dp, batch, chunk",
    "WORD_AXIS": "precision, policy, router, objective, mode, prefill, decode, prices",
    "PRICE_KIND": "spot, reserved",
}
# Sets that always come together, and what they are together. The first that is there is taken out.
_TOGETHER = (
    ({"LET", "SOURCE", "CONTEXT", "BLOCK", "FORMAT_ROLE"}, "a setting"),
    ({"LINEAR", "ROPE", "ATTENTION", "RESIDUAL", "PARALLEL", "REPEAT", "EXPERTS", "EMBEDDING",
      "NORM", "ACTIVATION", "NAME"}, "an operator"),
    ({"SPLIT", "FLAG", "ROUTER", "AT", "SIZE", "FORMAT_ROLE", "AS"}, "an option"),
    ({"PLUS", "MINUS", "STAR", "SLASH"}, "+ - * /"),
    ({"PLUS", "MINUS"}, "+ -"),
)  # fmt: skip


def syntax_error(source: syntax.SourceText, error: UnexpectedInput, grammar: Lark) -> SpecError:
    """The error for a fault that the parser met."""
    words, shown = _expected(error, grammar)
    if isinstance(error, UnexpectedCharacters):
        return _character_error(source, error, shown)
    assert isinstance(error, UnexpectedToken)
    token = error.token
    if token.type == "$END":
        return source.error(_end_of(source.text), f"the file ends here; expected {shown}")
    misspelt = _misspelt_before(source, token)
    if misspelt is not None:
        return misspelt
    if str(token) == "=" and "an operator" in shown:
        return source.error(span_of(token), "unexpected '='; commas separate what a let gives")
    if str(token) in SETTING_WORDS and "an operator" in shown:
        message = f"{str(token)!r} is a setting, and settings stand before the first operator"
        return source.error(span_of(token), message)
    hint = did_you_mean(str(token), words)
    message = f"unexpected {str(token)!r}; expected {shown}{hint}"
    return source.error(span_of(token), message)


def _character_error(
    source: syntax.SourceText, error: UnexpectedCharacters, shown: str
) -> SpecError:
    at = syntax.Span(error.line, error.column, error.column + 1)
    place = error.pos_in_stream or 0
    found = source.text[place]
    if found == '"':
        return source.error(at, f"a text without its closing quote; expected {shown}")
    if found == "." and place and source.text[place - 1].isdigit():
        return source.error(at, "a size is a whole number")
    expected = f"; expected {shown}" if len(shown) <= MAX_EXPECTED else ""
    return source.error(at, f"unexpected {found!r}{expected}")


def _expected(error: UnexpectedInput, grammar: Lark) -> tuple[list[str], str]:
    """The words that could have stood there, and all that could as a phrase."""
    if isinstance(error, UnexpectedToken):
        names = set(error.accepts or error.expected)
    else:
        names = set(getattr(error, "allowed", None) or ())
    names = {name for name in names if name != "COMMENT" and not name.startswith("__IGNORE")}
    words = _WORD.findall(" ".join(_name_text(name, grammar) for name in names - {"NAME", "INT"}))
    phrases = []
    for together, phrase in _TOGETHER:
        if together <= names:
            names -= together
            phrases.append(phrase)
    literals = sorted(_name_text(name, grammar) for name in names)
    phrases += sorted(set(literals), key=lambda text: (not text.startswith("'"), text))
    return words, " or ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


def _name_text(name: str, grammar: Lark) -> str:
    if name in _PATTERN_WORDS:
        return _PATTERN_WORDS[name]
    return repr(grammar.get_terminal(name).pattern.value.removesuffix("\\b"))


def _misspelt_before(source: syntax.SourceText, token: Token) -> SpecError | None:
    """A misspelt word reads as a block's name, and the fault shows only at a word after it."""
    place = token.start_pos or 0
    code = _COMMENT.sub(lambda match: " " * len(match.group()), source.text[:place])
    if str(token) in SETTING_WORDS:  # perhaps the setting before it was taken for blocks
        return _misspelt(source, list(_WORD.finditer(code))[-SETTING_LENGTH:], SETTING_WORDS)
    line_start = code.rfind("\n") + 1
    words = list(_WORD.finditer(code, line_start))
    opens = words and not code[line_start : words[0].start()].strip("{} \t")
    known = (*SETTING_WORDS, *OPENING_WORDS, *OPTION_WORDS)
    return _misspelt(source, [*(words[:1] if opens else []), *words[-1:]], known)


def _misspelt(
    source: syntax.SourceText, matches: list[re.Match[str]], known: tuple[str, ...]
) -> SpecError | None:
    """The error for the first word that is none of the known ones but near one."""
    for match in matches:
        hint = did_you_mean(match.group(), known)
        if hint and match.group() not in known:
            line = source.text.count("\n", 0, match.start()) + 1
            column = match.start() - source.text.rfind("\n", 0, match.start())
            at = syntax.Span(line, column, column + len(match.group()))
            return source.error(at, f"unknown word {match.group()!r}{hint}")
    return None


def _end_of(text: str) -> syntax.Span:
    lines = text.rstrip().split("\n")
    column = len(lines[-1]) + 1
    return syntax.Span(len(lines), column, column + 1)
