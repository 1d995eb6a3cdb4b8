"""The standing benchmark: its two results by hand, and a real search that the next run goes on from."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from servecast.simulator.cli import cli
from servecast.simulator.commands.bench_job import MODELS, SKUS, WORKLOADS, BenchOptions
from servecast.simulator.commands.bench_show import show_bench
from servecast.simulator.commands.bench_table import Cell, misconfiguration, summary


def row(sku: str, tp: int, qps_per_usd_hour: float) -> dict[str, Any]:
    figures = {"qps_per_usd_hour": qps_per_usd_hour, "usd_per_million_output_tokens": 1.0}
    return {"sku": sku, "tp": tp, "pp": 1, "max_num_seqs": 8, "max_batched_tokens": 64, **figures}


CHAT = Cell("m", "chat", (row("a", 1, 4.0), row("b", 1, 3.0), row("a", 2, 2.0)))
LONG = Cell("m", "long", (row("b", 1, 6.0), row("a", 2, 5.0)))
NEVER = Cell("m", "never", ())


def test_the_cost_of_a_misconfiguration_worked_by_hand() -> None:
    """The best for chat, one GPU of SKU a, cannot serve long; the best for long costs chat 4/3."""
    assert misconfiguration([CHAT, LONG]) == [[1.0, None], [4 / 3, 1.0]]


def test_a_workload_that_nothing_serves_has_no_cost() -> None:
    assert misconfiguration([CHAT, NEVER]) == [[1.0, None], [None, None]]


def test_no_configuration_costs_less_than_the_best() -> None:
    costs = [cost for line in misconfiguration([CHAT, LONG]) for cost in line if cost is not None]
    assert min(costs) == 1.0


def test_the_summary_says_what_changes_and_what_it_costs() -> None:
    found = summary([CHAT, LONG, NEVER], ["a", "b"])
    assert found["findings"]["best_differs"] == {"m": 2}
    worst = {"model": "m", "chosen_for": "long", "served": "chat", "cost": 4 / 3}
    assert found["findings"]["costliest"] == worst
    assert found["cells"][1]["qps_per_usd_hour"] == {"a": 5.0, "b": 6.0}
    assert found["cells"][2]["best"] is None


def test_a_person_sees_the_best_the_matrix_and_the_findings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_bench(summary([CHAT, LONG, NEVER], ["a", "b"]), Console(width=120))
    shown = capsys.readouterr().out
    assert "nothing meets the targets" in shown
    assert "m: 2 configurations are best for its 3 workloads." in shown
    assert "configured for long and serving chat: 1.33 times the cost." in shown


def test_the_names_of_gpus_break_at_a_hyphen_to_fit_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = row("a100-sxm-80gb", 1, 3.0)
    cells = [Cell("llama-3.1-8b", "summarisation", (best,))]
    show_bench(summary(cells, ["a100-sxm-80gb", "h100-sxm"]), Console(width=80))
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["a100-sxm-"]
    assert second.split() == ["80gb", "h100-sxm"]
    assert "summarisation" in last  # one workload: no matrix of one, and nothing to find


def test_the_matrix_of_all_workloads_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [Cell("internlm-20b", name, (row("h100-sxm", 1, 3.0),)) for name in WORKLOADS]
    show_bench(summary(cells, ["h100-sxm"]), Console(width=80))
    headers = [line for line in capsys.readouterr().out.splitlines() if "serving →" in line]
    assert [line.split()[2:] for line in headers] == [list(WORKLOADS)]


def test_without_a_choice_it_is_the_standing_grid() -> None:
    standing = BenchOptions(Path("x")).with_standing()
    assert (standing.models, standing.workloads, standing.skus) == (MODELS, WORKLOADS, SKUS)
    assert len(BenchOptions(Path("x"), quick=True).with_standing().workloads) == 2


def run(folder: Path, *options: str) -> Result:
    store = ("--source", "agent", "--store", str(folder / "s.duckdb"), "--out", str(folder / "out"))
    asked = ("bench", "--quick", "--sku", "h100-sxm", "--jobs", "1", "--json", *store, *options)
    return CliRunner().invoke(cli, asked)


def test_the_next_run_goes_on_from_what_is_done(tmp_path: Path) -> None:
    first = run(tmp_path, "--workload", "translation")
    assert first.exit_code == 0, first.stderr
    (saved,) = (tmp_path / "out").glob("*.json")
    (cell,) = json.loads(first.stdout)["cells"]
    assert cell["best"]["sku"] == "h100-sxm"
    assert cell["configurations"] == 2
    kept = json.loads(saved.read_text())
    kept["ranked"][0]["qps_per_usd_hour"] = 123.0  # so that a search anew would be seen
    saved.write_text(json.dumps(kept))
    again = json.loads(run(tmp_path, "--workload", "translation").stdout)
    assert again["cells"][0]["qps_per_usd_hour"] == {"h100-sxm": 123.0}


def test_ctrl_c_shows_what_is_done_and_keeps_no_half_a_search(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The second search, of requests with long outputs, is stopped at its first configuration."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    journal = tmp_path / "out" / "search.jsonl"

    def stop() -> None:
        while not (done(tmp_path) and journal.exists() and journal.stat().st_size):
            sleep(0.001)  # until it has a line: a file that is being opened is nobody's to close
        os.kill(os.getpid(), signal.SIGINT)

    stopper = Thread(target=stop)
    stopper.start()
    first = run(tmp_path, "--workload", "translation", "--workload", "reasoning")
    stopper.join()
    assert first.exit_code == 130
    assert "interrupted; the same command goes on from here" in first.stderr
    found = json.loads(first.stdout)
    assert (found["complete"], len(found["cells"]), len(done(tmp_path))) == (False, 1, 1)
    assert found["cells"][0]["configurations"] == 2


def done(folder: Path) -> list[Path]:
    return list((folder / "out").glob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--model", "lama-3.1-8b"),
            "no shipped model 'lama-3.1-8b' (did you mean 'llama-3.1-8b'?)",
        ),
        (
            ("--workload", "chta"),
            "'chta' is no file and no kind of workload (did you mean 'chat'?)",
        ),
        (("--sku", "h100"), "--sku: no SKU 'h100' (did you mean 'h100-"),
    ],
)
def test_what_cannot_be_benchmarked_is_one_sentence(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    before = ("--workload", "translation") if options[0] == "--workload" else ()
    done = run(tmp_path, *before, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()  # nothing was searched before it was told
