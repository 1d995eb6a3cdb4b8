"""`servecast profile` from a spec to rows of a store, with agents that are processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import servecast
from servecast.compiler.errors import UserError
from servecast.estimator.profiling.plan import PlanLimits
from servecast.estimator.store import Store

SPEC = """\
model "tiny" {
    source   "made for tests"
    context  256
    weights  bf16
    kv_cache bf16
    let hidden = 64, ffn = 96, vocab = 128, heads = 4, kv_heads = 2, head = 16
    embedding vocab -> hidden
    repeat 2 {
        residual {
            rms_norm  hidden
            linear    hidden -> (heads + 2*kv_heads) * head  split columns by kv_heads
            rope      (heads + kv_heads) x head
            attention heads/kv_heads x head
            linear    heads*head -> hidden  split rows
        }
    }
    rms_norm hidden
    linear   hidden -> vocab  split columns  at last_token
}
"""
LIMITS = ["--max-num-batched-tokens", "8", "--max-num-seqs", "2", "--max-context", "32"]
LIMITS += ["--max-case-s", "0.01"]


@dataclass(frozen=True)
class Filled:
    spec: Path
    store: Path
    options: tuple[str, ...]
    first: dict[str, int]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.llm"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def agents() -> Iterator[dict[str, str]]:
    """Two `agent serve` processes on the CPU, their addresses by SKU."""
    with ExitStack() as stack:
        processes = {sku: stack.enter_context(_agent(sku)) for sku in ("cpu-a", "cpu-b")}
        for process in processes.values():
            stack.callback(process.kill)
        yield {sku: _address(process) for sku, process in processes.items()}


def _agent(sku: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "servecast.agent.cli", "serve", "--port", "0", "--sku", sku]
    return subprocess.Popen(
        [*command, "--backend", "cpu", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split()[-1]


def profile(spec: Path, *options: str) -> subprocess.CompletedProcess[str]:
    servecast = [sys.executable, "-c", "from servecast.simulator.cli import main; main()"]
    command = [*servecast, "profile", str(spec), *LIMITS, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def filled(agents: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A store that `servecast profile` has filled."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "tiny.llm").write_text(SPEC)
    options = (
        "--agent",
        agents["cpu-a"],
        "--store",
        str(folder / "s.duckdb"),
        "--tp",
        "1",
        "--json",
    )
    done = profile(folder / "tiny.llm", *options)
    return Filled(folder / "tiny.llm", folder / "s.duckdb", options, json.loads(done.stdout))


def test_a_store_is_filled_and_a_second_run_has_nothing_to_do(filled: Filled) -> None:
    second = json.loads(profile(filled.spec, *filled.options).stdout)
    with Store.open(filled.store, read_only=True) as store:
        rows = store.measurements("cpu-a")
    cases = {row.case for row in rows}
    assert filled.first["measured"] == len(cases) == len(rows) - filled.first["unstable"] > 0
    assert (second["measured"], second["present"]) == (0, filled.first["measured"])
    assert filled.first["left"] == second["left"] == 0


def test_a_row_tells_what_was_measured_and_on_what(filled: Filled) -> None:
    with Store.open(filled.store, read_only=True) as store:
        row = store.measurements("cpu-a")[0]
    assert row.timing is not None
    assert row.timing.num_samples is not None
    assert row.timing.num_samples >= 10
    assert json.loads(row.node)["threads"] == 1
    assert json.loads(row.conditions)["stop_reason"] in ("converged", "max_time", "max_samples")


def test_samples_are_kept_where_they_are_asked_for(
    filled: Filled, agents: dict[str, str], tmp_path: Path
) -> None:
    options = ["--agent", agents["cpu-a"], "--tp", "1", "--keep-samples"]
    assert profile(filled.spec, *options, "--store", str(tmp_path / "s.duckdb")).returncode == 0
    for path, kept in ((filled.store, False), (tmp_path / "s.duckdb", True)):
        with Store.open(path, read_only=True) as store:
            row = store.measurements("cpu-a")[0]
        samples_us = json.loads(row.conditions).get("samples_us", [])
        assert row.timing is not None
        assert len(samples_us) == (row.timing.num_samples if kept else 0)


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    spec: Path, agents: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "s.duckdb"
    done = profile(
        spec, "--agent", agents["cpu-a"], "--store", str(store), "--tp", "1,2", "--dry-run"
    )
    assert done.returncode == 0
    assert "linear" in done.stdout
    assert not store.exists()


def test_the_plan_for_a_gpu_that_nobody_has_tells_how_long_one_would_take(
    spec: Path, tmp_path: Path
) -> None:
    told = profile(spec, "--dry-run", "--sku", "h100-sxm", "--store", str(tmp_path / "s.duckdb"))
    last = told.stdout.splitlines()[-1]
    assert re.fullmatch(r"h100-sxm: \d+ cases to measure, .* to .* minutes of one GPU", last)
    thrice = profile(spec, "--dry-run", "--sku", "h100-sxm", "--rounds", "3").stdout.splitlines()[
        -1
    ]
    assert int(thrice.split()[1]) == 3 * int(last.split()[1])
    wrong = profile(spec, "--dry-run", "--sku", "h100-smx")
    sentence = "Error: --sku h100-smx: no such SKU is declared (did you mean 'h100-sxm'?)\n"
    assert (wrong.returncode, wrong.stderr) == (2, sentence)
    assert "an agent (--agent HOST:PORT) or a GPU (--sku NAME)" in profile(spec, "--dry-run").stderr
    assert profile(spec, "--sku", "h100-sxm").returncode == 2  # it would measure


def test_two_skus_are_measured_side_by_side(
    spec: Path, agents: dict[str, str], tmp_path: Path
) -> None:
    options = [part for address in agents.values() for part in ("--agent", address)]
    profile(spec, *options, "--store", str(tmp_path / "s.duckdb"), "--tp", "1")
    with Store.open(tmp_path / "s.duckdb", read_only=True) as store:
        cases = [{row.case for row in store.measurements(sku)} for sku in ("cpu-a", "cpu-b")]
    assert cases[0] == cases[1] != set()


def test_an_agent_that_does_not_answer_is_exit_code_5_and_one_sentence(
    spec: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.duckdb"
    done = profile(spec, "--agent", "127.0.0.1:1", "--store", str(store))
    message = "Error: agent 127.0.0.1:1 does not answer; is `agent serve` running there?\n"
    assert (done.returncode, done.stderr) == (5, message)
    assert not store.exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--budget", "10", "'10' is not a duration like 90s, 10m or 1h"),
        ("--tp", "1,x", "'1,x' is not a list of degrees like 1,2,4"),
        ("--tp", "3", "tp degrees that work: 1, 2"),
    ],
)
def test_bad_options_are_exit_code_2_and_one_sentence(
    spec: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    store = tmp_path / "s.duckdb"
    done = profile(spec, "--agent", "127.0.0.1:1", "--store", str(store), option, value)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not store.exists()


def test_python_profiles_in_as_many_rounds_as_it_is_told(
    spec: Path, agents: dict[str, str], tmp_path: Path
) -> None:
    programs, limits = [servecast.compile(spec)], PlanLimits(8, 2, 32)
    where = [agents["cpu-a"]], tmp_path / "p.duckdb"
    once, thrice = (
        servecast.profile(programs, *where, limits=limits, budget_s=0.0, rounds=rounds)
        for rounds in (1, 3)
    )
    assert thrice.planned == 3 * once.planned > 0
    with pytest.raises(UserError, match=r"^profile: rounds must be at least 1, got 0$"):
        servecast.profile(programs, *where, rounds=0)
