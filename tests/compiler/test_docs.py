"""Every example in the language's documents compiles, and every output shown is what is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from servecast.compiler.catalog import compile_text
from servecast.compiler.cli import compile_command
from servecast.compiler.errors import SpecError
from servecast.compiler.fmt import format_source
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.compiler.words import (
    DATASHEET_WORDS,
    DECLARATION_WORDS,
    OPERATOR_WORDS,
    OPTION_WORDS,
    SERVICE_WORDS,
    SETTING_WORDS,
    STRUCTURE_WORDS,
)

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+) ?([\w.]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFERENCE = BLOCK.findall((DOCS / "spec-language.md").read_text(encoding="utf-8"))
TUTORIAL = BLOCK.findall((DOCS / "spec-tutorial.md").read_text(encoding="utf-8"))
FRAME = next(text for _, role, text in REFERENCE if role == "frame")


def whole(role: str, text: str) -> str:
    """An example in its frame."""
    places = {"layer": "# a layer stands here\n", "settings": "# settings stand here\n"}
    return FRAME.replace(places[role], text) if role in places else text


@pytest.mark.parametrize(("kind", "role", "text"), REFERENCE)
def test_an_example_of_the_reference_compiles_and_shards(kind: str, role: str, text: str) -> None:
    assert kind == "llm"
    spec = compile_text(whole(role, text), "example.llm")
    assert spec.models or spec.skus or spec.services
    for program in spec.models.values():
        shard(program, Parallelism(tp=2, pp=2))


@pytest.mark.parametrize(("kind", "role", "text"), [b for b in REFERENCE if not b[1]])
def test_whole_files_in_the_reference_are_in_canonical_form(
    kind: str, role: str, text: str
) -> None:
    assert format_source(text, "example.llm") == text


def test_every_word_of_the_language_stands_in_an_example() -> None:
    examples = " ".join(re.sub(r'"[^"\n]*"|#.*', "", text) for _, _, text in REFERENCE)
    every = (
        *(DECLARATION_WORDS + SETTING_WORDS + STRUCTURE_WORDS + OPERATOR_WORDS),
        *(OPTION_WORDS + DATASHEET_WORDS + SERVICE_WORDS),
    )
    assert not set(every) - set(re.findall(r"\w+", examples))


def test_the_frame_is_named_after_what_it_frames() -> None:
    assert {role for _, role, _ in REFERENCE} == {"", "frame", "layer", "settings"}


def test_the_tutorial_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ""
    for kind, name, text in TUTORIAL:
        match kind:
            case "llm" if name == "wrong":
                wrong = text
            case "llm":
                (tmp_path / name).write_text(text, encoding="utf-8")
                assert format_source(text, name) == text
            case "error":
                with pytest.raises(SpecError) as caught:
                    compile_text(wrong, "wrong.llm")
                assert f"{caught.value}\n" == text
            case "console":
                assert_prints(text)


def assert_prints(console: str) -> None:
    command, shown = console.split("\n", maxsplit=1)
    program, verb, *args = shlex.split(command.removeprefix("$ "))
    assert (program, verb) == ("servecast", "compile")
    output = CliRunner().invoke(compile_command, args, catch_exceptions=False).output
    assert output.startswith(shown)
