"""The lexer for documents and the grammar for editors know every word of the language."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pygments.token import Comment, Error, Name, String, Token

from servecast.compiler.pygments_lexer import LlmLexer
from servecast.compiler.words import (
    DATASHEET_WORDS,
    DECLARATION_WORDS,
    OPERATOR_WORDS,
    OPTION_WORDS,
    SERVICE_WORDS,
    SETTING_WORDS,
    STRUCTURE_WORDS,
)

REPOSITORY = Path(__file__).parents[2]
SPECS = sorted((REPOSITORY / "spec").glob("*.llm"))
EXTENSION = REPOSITORY / "docs" / "editor" / "vscode-llm"
WORDS = {
    *DECLARATION_WORDS,
    *SETTING_WORDS,
    *STRUCTURE_WORDS,
    *OPERATOR_WORDS,
    *OPTION_WORDS,
    *DATASHEET_WORDS,
    *SERVICE_WORDS,
}


def test_the_words_are_those_of_the_grammar() -> None:
    grammar = (REPOSITORY / "compiler" / "llm.lark").read_text(encoding="utf-8")
    rules = re.sub(r"//.*", "", grammar)
    literals = set(re.findall(r'"([a-z_]{2,})"', rules))
    patterns = re.findall(r"^[A-Z_]+\.2: /\(([a-z_|0-9]+)\)", rules, re.MULTILINE)
    assert literals | {word for pattern in patterns for word in pattern.split("|")} == WORDS


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_shipped_spec_has_a_colour_for_everything(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tokens = list(LlmLexer().get_tokens(text))
    assert "".join(word for _, word in tokens) == text
    assert not [word for kind, word in tokens if kind in Error or kind is Token.Text]


def test_words_comments_and_texts_have_their_colours() -> None:
    tokens = dict((word, kind) for kind, word in LlmLexer().get_tokens('linear "a" # linear'))
    assert tokens["linear"] is Name.Function
    assert tokens['"a"'] is String.Double
    assert tokens["# linear"] is Comment.Single


def test_the_editor_grammar_colours_every_word() -> None:
    package = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
    path = EXTENSION / package["contributes"]["grammars"][0]["path"]
    grammar = json.loads(path.read_text(encoding="utf-8"))
    patterns = [re.compile(each["match"]) for each in grammar["patterns"]]
    assert not [word for word in WORDS if not any(p.fullmatch(word) for p in patterns)]
    json.loads((EXTENSION / "language-configuration.json").read_text(encoding="utf-8"))
