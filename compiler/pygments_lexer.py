"""Colours for `.llm` texts in documents: a Pygments lexer, registered under the name `llm`."""

from __future__ import annotations

from typing import ClassVar

from pygments.lexer import RegexLexer, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Whitespace

from servecast.compiler.words import (
    DATASHEET_WORDS,
    DECLARATION_WORDS,
    OPERATOR_WORDS,
    OPTION_WORDS,
    SERVICE_WORDS,
    SETTING_WORDS,
    STRUCTURE_WORDS,
)


class LlmLexer(RegexLexer):
    """Words are coloured wherever they stand: a colour is no check."""

    name = "llm"
    aliases: ClassVar[list[str]] = ["llm"]
    filenames: ClassVar[list[str]] = ["*.llm"]
    tokens: ClassVar[dict[str, list[tuple[object, object]]]] = {
        "root": [
            (r"\s+", Whitespace),
            (r"#[^\n]*", Comment.Single),
            (r'"[^"\n]*"', String.Double),
            (words(DECLARATION_WORDS, prefix=r"\b", suffix=r"\b"), Keyword.Declaration),
            (words(SETTING_WORDS, prefix=r"\b", suffix=r"\b"), Keyword.Namespace),
            (words(STRUCTURE_WORDS, prefix=r"\b", suffix=r"\b"), Keyword),
            (words(OPERATOR_WORDS, prefix=r"\b", suffix=r"\b"), Name.Function),
            (words(OPTION_WORDS, prefix=r"\b", suffix=r"\b"), Keyword.Pseudo),
            (words((*DATASHEET_WORDS, *SERVICE_WORDS), prefix=r"\b", suffix=r"\b"), Keyword),
            (r"[0-9][0-9_]*(\.[0-9]+)?", Number),
            (r"->|<=|[-+*/=<]", Operator),
            (r"[{}(),]", Punctuation),
            (r"[A-Za-z_][\w.-]*(/[A-Za-z]+)?", Name),
        ]
    }
