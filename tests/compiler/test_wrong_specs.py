"""What a wrong file is told: one reviewed message for each, in tests/golden/compiler/wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import SpecError

WRONG = sorted((Path(__file__).parents[1] / "golden" / "compiler" / "wrong").glob("*.llm"))


def message(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        compile_text(path.read_bytes().decode("utf-8"), path.name)
    return str(caught.value)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_file_gets_its_reviewed_message(path: Path) -> None:
    assert f"{message(path)}\n" == path.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_message_has_its_place_its_line_and_a_caret(path: Path) -> None:
    first, quoted, caret = message(path).split("\n")
    line, column = map(int, re.findall(r":(\d+):(\d+): ", first)[0])
    assert quoted.startswith(f"{line:>5} | ")
    assert caret.strip().strip("|").strip(" ^") == ""
    assert "^" in caret
    if len(quoted) < 120:
        assert caret.index("^") == len("    1 | ") + column - 1


def test_there_are_at_least_sixty() -> None:
    assert len(WRONG) >= 60
