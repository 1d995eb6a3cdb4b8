"""Servecast as a library: every example in its docstrings runs, and nothing loads before it is used."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from example_result import example_result

import servecast
from servecast.compiler.errors import UserError
from servecast.estimator.step_log import read_step_log
from servecast.estimator.whole_steps import step_seconds
from servecast.simulator import frames, verbs

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = "seconds,decodes,cached_tokens,chunks\n"
VERBS = ("compile", "profile", "fit", "tables", "simulate", "search", "explain", "report")


@pytest.fixture(autouse=True)
def in_the_repository(user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples' paths are relative to it; the user's own profile store is left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("module", [verbs, frames])
def test_the_examples_in_the_docstrings_print_what_they_say(module: object) -> None:
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.testmod(module, optionflags=flags)  # type: ignore[arg-type]  # a module
    assert found.attempted > 5
    assert found.failed == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_documented_typed_function_of_the_package(verb: str) -> None:
    function = getattr(servecast, verb)
    assert function.__doc__
    assert set(function.__annotations__) > {"return"}
    assert verb in dir(servecast)


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    code = "import sys, servecast; print(*(m for m in sys.modules if m.startswith('servecast.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_name_that_is_none_of_the_package_s_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'servecast' has no attribute 'sarch'"):
        servecast.sarch  # noqa: B018  # its reading is what is tested


@pytest.fixture
def answer() -> dict[str, object]:
    """Two configurations of one GPU, as far as a table needs them."""
    return example_result()


def test_an_answer_s_ranking_is_one_row_a_configuration_in_every_library(
    answer: dict[str, object],
) -> None:
    tables = [servecast.frame(answer, kind) for kind in ("arrow", "pandas", "polars")]
    assert isinstance(tables[0], pyarrow.Table)
    assert {table.shape for table in tables} == {(54, tables[0].num_columns)}
    assert "metrics.ttft_s.p90" in tables[1].columns


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(UserError, match="a table is made of a run, an answer, or a list"):
        servecast.frame([1, 2])
    with pytest.raises(UserError, match="'excel' is no kind of table; there are arrow, pandas"):
        servecast.frame([], "excel")  # type: ignore[arg-type]


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match="a table of polars needs it: pip install polars"):
        servecast.frame([], "polars")


def test_a_rank_that_is_not_there_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(UserError, match="answer: has 54 ranked configurations, not 55"):
        servecast.explain(answer, 55)
    assert len(servecast.explain(answer, 1, 2)) == 1


def test_a_text_is_a_spec_and_a_name_is_a_file(tmp_path: Path) -> None:
    text = (REPOSITORY / "spec" / "mistral.llm").read_text()
    assert list(servecast.load(text).models) == list(servecast.load("spec/mistral.llm").models)
    with pytest.raises(UserError, match=r"none.llm"):
        servecast.load(tmp_path / "none.llm")


def test_an_engines_own_steps_correct_the_predicted_times(tmp_path: Path) -> None:
    """Every step takes ten times what an H100 does, and so the answers."""
    setup: dict[str, Any] = {"sku": "h100-sxm", "max_num_seqs": 64, "max_batched_tokens": 576}
    spec, trace = "spec/llama.llm", servecast.read_trace("spec/traces/chat.csv", num_requests=20)
    log = tmp_path / "steps.csv"
    rows = [(0, 0, "0+512"), (0, 0, "512+64"), *((n, n * 1000, "") for n in (1, 8, 32, 64))]
    log.write_text(HEADER + "".join(f"1,{n},{cached},{c}\n" for n, cached, c in rows))
    seconds = step_seconds(servecast.tables(spec, "llama-3.1-8b", **setup), read_step_log(log))
    timed = zip(seconds, rows, strict=True)
    log.write_text(HEADER + "".join(f"{10 * s},{n},{k},{c}\n" for s, (n, k, c) in timed))
    runs = [servecast.simulate(spec, trace, "llama-3.1-8b", steps=x, **setup) for x in (None, log)]
    fast, slow = (run.summary["metrics"]["tpot_s"]["p50"] for run in runs)
    assert slow == pytest.approx(10 * fast, rel=0.1)
    assert "corrected by 6 steps" in runs[1].summary["provenance"]["notes"][-1]
    drafter = servecast.load(spec).model("llama-3.1-8b")
    with pytest.raises(UserError, match="does not tell the drafter's time apart"):
        servecast.simulate(spec, trace, "llama-3.1-8b", steps=log, drafter=drafter, **setup)


def test_the_notebook_runs_as_it_stands(tmp_path: Path) -> None:
    jupyter = Path(sys.executable).with_name("jupyter-execute")
    done = subprocess.run(
        [jupyter, "docs/notebook.ipynb", f"--output={tmp_path / 'run.ipynb'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "run.ipynb").read_text(encoding="utf-8"))["cells"][-1][
        "outputs"
    ]
    assert "".join(outputs[0]["data"]["text/plain"]) == "True"
