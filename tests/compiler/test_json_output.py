"""``--json`` and ``--quiet`` of the compiler's commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from servecast.simulator.cli import cli

REPOSITORY = Path(__file__).resolve().parents[2]
LLAMA = str(REPOSITORY / "spec" / "llama.llm")
CONFIG = str(next((REPOSITORY / "tests" / "compiler" / "configs").rglob("*.json")))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def printed(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_compilation_is_the_same_as_with_emit_json() -> None:
    assert printed("compile", LLAMA) == json.loads(run("compile", LLAMA, "--emit", "json").stdout)


def test_a_compilation_has_no_json_of_another_text() -> None:
    done = run("compile", LLAMA, "--emit", "ir", "--json")
    assert done.exit_code == 2
    assert "it goes with no other" in done.stderr


def test_a_difference_is_its_lines() -> None:
    found = printed("diff", f"{LLAMA}:llama-3.1-8b", f"{LLAMA}:llama-3.1-70b")
    assert found["lines"][:2] == ["--- llama-3.1-8b", "+++ llama-3.1-70b"]


def test_formatting_names_the_files_that_it_rewrote_unless_quiet(tmp_path: Path) -> None:
    path = tmp_path / "a.llm"
    text = Path(LLAMA).read_text(encoding="utf-8")
    path.write_text(f"\n\n{text}", encoding="utf-8")
    assert printed("fmt", str(path)) == {"rewritten": [str(path)]}
    assert printed("fmt", str(path)) == {"rewritten": []}
    path.write_text(f"\n\n{text}", encoding="utf-8")
    assert run("fmt", str(path), "--quiet").output == ""


def test_an_import_is_its_spec_and_where_it_was_written(tmp_path: Path) -> None:
    found = printed("import", CONFIG, "--name", "mine", "-o", str(tmp_path / "mine.llm"))
    assert (found["model"], found["output"]) == ("mine", str(tmp_path / "mine.llm"))
    assert (tmp_path / "mine.llm").read_text(encoding="utf-8") == found["spec"]
