"""What APEX+ recorded, read as it was measured: servers that kept counting, traces in quarters."""

from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOLDER = "measured/apex-plus-h100-vllm-0.6"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "apex_runs.py"))


def row(traffic: str, requests: int, tokens: int, ttft_s: float, tpot_s: float) -> dict[str, str]:
    """Of a server on four GPUs whose requests took ``ttft_s`` and ``tpot_s`` in the mean since it began."""
    return {
        "run": f"llama_{traffic}_validation_4TP",
        "model": "Llama-3.1-70B",
        "parallel": "4TP",
        "trace": f"llama/{traffic}.jsonl",
        "n_requests_logged": str(requests - 1),  # one line of a log is lost
        "engine_output_sum": str(tokens),
        "ttft_mean_s": str(ttft_s),
        "tpot_mean_s": str(tpot_s),
        "sum_e2e_latency_s": "0",
    }


def test_a_run_is_what_it_added_to_its_servers_counters(script: dict[str, Any]) -> None:
    first = row("lmsys_05", requests=10, tokens=100, ttft_s=0.1, tpot_s=0.02)
    second = row("creation_05", requests=30, tokens=300, ttft_s=0.4, tpot_s=0.05)
    apart = {found["run"]: means for found, means in script["_apart"]([first, second])}
    assert apart[first["run"]] == pytest.approx((0.1, 0.02))
    # 40 requests waited 16 s in all, of which the first ten 1 s; 400 tokens took 20 s, of which 2 s
    assert apart[second["run"]] == pytest.approx((15 / 30, 18 / 300))


def test_a_run_whose_own_latencies_add_up_began_a_server(script: dict[str, Any]) -> None:
    first = row("lmsys_05", requests=10, tokens=100, ttft_s=0.1, tpot_s=0.02)
    second = row("creation_05", requests=30, tokens=300, ttft_s=0.4, tpot_s=0.05)
    went_on = second | {"sum_e2e_latency_s": str(3.0 + 36.0)}  # of both
    fresh = second | {"sum_e2e_latency_s": str(30 * 0.4 + 300 * 0.05)}
    servers: Callable[..., list[list[dict[str, str]]]] = script["_servers"]
    assert [len(server) for server in servers([went_on, first])] == [2]
    assert [len(server) for server in servers([fresh, first])] == [1, 1]


def test_every_recorded_run_adds_up_once_its_server_is_known(
    script: dict[str, Any], shared_data: Path
) -> None:
    """First tokens and later ones take what requests took in all: so no order of traces was guessed wrong."""
    with (shared_data / FOLDER / "runs.csv").open() as file:
        rows = [found for found in csv.DictReader(file) if found["engine"] == "vllm"]
    continued = 0
    for server in script["_servers"](rows):
        before_s = 0.0
        for found, (ttft_s, tpot_s) in script["_apart"](server):
            took_s = float(found["sum_e2e_latency_s"]) - before_s
            before_s = float(found["sum_e2e_latency_s"])
            requests, tokens = int(found["n_requests_logged"]) + 1, int(found["engine_output_sum"])
            assert requests * ttft_s + tokens * tpot_s == pytest.approx(took_s, rel=0.02), found
        continued += len(server) - 1
    assert (len(rows), continued) == (94, 26)


def test_every_run_has_its_requests(script: dict[str, Any], shared_data: Path) -> None:
    """Traces that are not there are put together, and hold as many tokens as the recording says."""
    runs = script["read_runs"](shared_data / FOLDER)
    assert len(runs) == 106
    assert all(run.workload is not None for run in runs)
    (whole,) = (run for run in runs if run.name == "llama_summarization_05_validation_8TP")
    assert len(whole.workload.arrival_s) == 1302
