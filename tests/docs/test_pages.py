"""Every command and snippet of the documentation is run, page by page, from a folder that has ``spec/``.

A block that is not run has its reason in a comment on the line before it: ``<!-- not run: … -->``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from example_result import example_result

from servecast.compiler.service import METRICS
from servecast.simulator.metrics.metrics import ReplicaMetrics

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
NOT_RUN = "not run: "
LEAST_REASON = 12  # characters


@dataclass(frozen=True)
class Snippet:
    remark: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.remark.startswith(NOT_RUN)


def snippets(page: Path) -> list[Snippet]:
    return [Snippet(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def script(page: Path, language: str) -> str:
    return "\n".join(s.text for s in snippets(page) if s.language == language and s.is_run)


PAGES = sorted(DOCS.glob("*.md"))
with_shell = [page for page in PAGES if script(page, "sh")]
with_python = [page for page in PAGES if script(page, "python")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place to work in, with what the pages name: folders of the repository, and a search's result."""
    for name in ("spec", "benchmarks"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text(json.dumps(example_result()))
    return tmp_path


def run(command: list[str], folder: Path, cache: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", with_shell, ids=lambda page: page.stem)
def test_the_shell_commands_of_a_page_run(page: Path, folder: Path, user_cache: Path) -> None:
    run(["bash", "-euo", "pipefail", "-c", script(page, "sh")], folder, user_cache)


@pytest.mark.parametrize("page", with_python, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, folder: Path, user_cache: Path) -> None:
    run([sys.executable, "-c", script(page, "python")], folder, user_cache)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for snippet in snippets(page):
        if not snippet.is_run:
            assert len(snippet.remark) > len(NOT_RUN) + LEAST_REASON, snippet.text


def test_a_block_with_a_reason_is_not_run_and_others_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shown = "<!-- not run: it is only shown -->\n```sh\nb\n```\n"
    page.write_text(f"```sh\na\n```\n\n{shown}<!-- slow: x -->\n```sh\nc\n```\n")
    assert script(page, "sh") == "a\n\nc\n"


def test_every_metric_has_its_formula() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    of_a_run = set(ReplicaMetrics.__dataclass_fields__) - {f"{name}_s" for name in METRICS}
    counts = {"num_finished", "num_rejected", "num_unfinished"}
    for name in {*METRICS, *of_a_run} - counts:
        assert f"`{name}`" in page, name
