"""Every command and snippet of the documentation is run, page by page, from a folder that has ``spec/``."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from example_result import example_result
from pages import DOCS, REPOSITORY, documented, script, snippets

from servecast.compiler.service import METRICS
from servecast.simulator.cli import cli
from servecast.simulator.metrics.metrics import ReplicaMetrics

LEAST_REASON = 12  # characters
OURS = re.compile(r"^((?:servecast|compile-and-search|agent) (?:.*\\\n)*.*)$", re.MULTILINE)
NAMED = re.compile(r"\b((?:benchmarks|tests)/[\w/]+\.py)(?:::(\w+))?")
WITHIN_A_LINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

README = REPOSITORY / "README.md"
PAGES = sorted(DOCS.glob("*.md"))
with_shell = [page for page in PAGES if script(page, "sh")]
with_python = [page for page in PAGES if script(page, "python")]
REMARK = re.compile(rf"(slow|run by \S+): .{{{LEAST_REASON},}}")


def recording(seed: int, tpot_s: float = 0.0082) -> dict[str, Any]:
    """What `vllm bench serve --save-detailed` saves, of an engine a little slower than the profiles say."""
    rng, num_requests = np.random.default_rng(seed), 240
    prompts = rng.integers(200, 1200, num_requests)
    outputs = rng.integers(16, 64, num_requests)
    return {
        "input_lens": prompts.tolist(),
        "output_lens": outputs.tolist(),
        "ttfts": (0.02 + 2.4e-5 * prompts + rng.exponential(0.004, num_requests)).tolist(),
        "itls": [(tpot_s * rng.normal(1, 0.02, length - 1)).tolist() for length in outputs],
        "start_times": np.cumsum(rng.exponential(0.1, num_requests)).tolist(),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place to work in, with what the pages name: specs, a search's result, two recordings, a trace."""
    here = tmp_path / "servecast"
    here.mkdir()
    (here / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    shutil.copytree(REPOSITORY / "spec", here / "spec", ignore=shutil.ignore_patterns("__*"))
    (here / "results").mkdir()
    (here / "results" / "results.json").write_text(json.dumps(example_result()))
    for seed, name in enumerate(("bench.json", "fresh.json")):
        (here / name).write_text(json.dumps(recording(seed)))
    shutil.copy(REPOSITORY / "spec" / "traces" / "chat.csv", here / "my-trace.csv")
    return here


def assert_it_runs(command: list[str], folder: Path, cache: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", with_shell, ids=lambda page: page.stem)
def test_the_shell_commands_of_a_page_run(
    page: Path, folder: Path, user_cache: Path, request: pytest.FixtureRequest
) -> None:
    if "../shared/" in script(page, "sh"):
        data: Path = request.getfixturevalue("shared_data")
        (folder.parent / "shared").symlink_to(data.parent.resolve())
    assert_it_runs(["bash", "-euo", "pipefail", "-c", script(page, "sh")], folder, user_cache)


@pytest.mark.parametrize("page", with_python, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, folder: Path, user_cache: Path) -> None:
    assert_it_runs([sys.executable, "-c", script(page, "python")], folder, user_cache)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_here_or_where_it_says(page: Path) -> None:
    """No other remark keeps a block from being run."""
    for snippet in snippets(page):
        remark = REMARK.fullmatch(snippet.remark)
        assert remark or not snippet.remark, snippet
        if snippet.runner is not None:
            runner = snippet.runner.read_text(encoding="utf-8")
            assert f"{page.name}" in runner or snippet.runner.name == "run", snippet.remark


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_the_options_of_commands_that_are_not_run_here_exist(page: Path) -> None:
    """Blocks that are run elsewhere, and what a sentence names."""
    others = [s.text for s in snippets(page) if s.language == "sh" and not s.is_run]
    others += WITHIN_A_LINE.findall(page.read_text(encoding="utf-8"))
    for line in OURS.findall("\n".join(others)):
        words = shlex.split(re.sub(r"[…\[\]]|\\\n|&$", " ", line), comments=True)
        name, *asked = words[1:] if words[0] == "servecast" else words
        command = cli if name == "COMMAND" else cli.get_command(click.Context(cli), name)
        while isinstance(command, click.Group) and command is not cli and asked:
            command, *asked = command.commands[asked[0]], *asked[1:]
        assert command is not None, line
        with suppress(click.BadOptionUsage):  # an option named without its argument
            command.make_parser(click.Context(command)).parse_args(asked)


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_the_programs_and_tests_that_a_page_names_are_there(page: Path) -> None:
    """With the test of that name, where one is named."""
    for path, name in NAMED.findall(page.read_text(encoding="utf-8")):
        named = REPOSITORY / path
        assert named.exists(), path
        assert not name or f"def {name}" in named.read_text(encoding="utf-8"), f"{path}::{name}"


def test_who_runs_a_block_is_told_by_its_remark(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    blocks = {
        "a": "",
        "c": "<!-- slow: x -->\n",
        "e": "<!-- run by tests/x.py: x -->\n",
    }
    page.write_text("\n".join(f"{remark}```sh\n{text}\n```\n" for text, remark in blocks.items()))
    assert script(page, "sh") == "a\n\nc\n"
    assert [s.runner for s in snippets(page)][-1] == REPOSITORY / "tests" / "x.py"


def test_the_tutorial_installs_as_the_readme_does() -> None:
    """The README's command is run word for word in a fresh environment by .ci/run."""
    install = documented("tutorial.md", "pip install").splitlines()
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "```sh\n" + "\n".join(install) in readme.partition("<!-- main -->")[2]


def test_the_example_trace_that_ships_is_what_its_script_writes(folder: Path) -> None:
    """traces.md writes it; the page's test ran on a copy."""
    script_path = REPOSITORY / "benchmarks" / "make_example_trace.py"
    shipped = REPOSITORY / "spec" / "traces" / "chat.csv"
    made = folder / "made.csv"
    subprocess.run([sys.executable, script_path, made], check=True)
    assert made.read_bytes() == shipped.read_bytes()


def test_every_metric_has_its_formula() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    of_a_run = set(ReplicaMetrics.__dataclass_fields__) - {f"{name}_s" for name in METRICS}
    counts = {"num_finished", "num_rejected", "num_unfinished"}
    for name in {*METRICS, *of_a_run} - counts:
        assert f"`{name}`" in page, name


def test_the_map_names_every_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in packages["packages"]:
        folder = "/".join(package.split(".")[1:]) or "simulator/api"
        assert f"`{folder}" in page, package
