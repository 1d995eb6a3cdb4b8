"""``servecast report`` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servecast.compiler.errors import UserError
from servecast.simulator.report.cli import report_command


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(report_command, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_a_result_becomes_a_page_beside_it(tmp_path: Path, result: dict[str, Any]) -> None:
    source = tmp_path / "results.json"
    source.write_text(json.dumps(result))
    assert run(str(source)) == f"{tmp_path / 'results.html'}\n"
    assert (tmp_path / "results.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.html", "results.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "results.json: is not JSON"),
        (b"\xff\xfe", "results.json: is not JSON"),
        (b"[]", "results.json: is not a search result"),
    ],
)
def test_a_file_that_is_no_result_is_one_sentence_and_writes_nothing(
    tmp_path: Path, content: bytes, message: str
) -> None:
    source = tmp_path / "results.json"
    source.write_bytes(content)
    with pytest.raises(UserError, match=message):
        run(str(source))
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_missing_result_and_a_place_that_cannot_be_written_are_one_sentence(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    source = tmp_path / "results.json"
    with pytest.raises(UserError, match=r"results.json: cannot be read: No such file"):
        run(str(source))
    source.write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"page.html: cannot be written: No such file"):
        run(str(source), "-o", str(tmp_path / "none" / "page.html"))


def test_the_page_s_place_is_json_or_silence_where_asked(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    source = tmp_path / "results.json"
    source.write_text(json.dumps(result))
    assert json.loads(run(str(source), "--json")) == {"page": str(tmp_path / "results.html")}
    assert run(str(source), "--quiet") == ""
