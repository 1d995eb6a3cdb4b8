"""Who shared a rank in a recording of two, by its clocks, and whom the simulated balancer sends there."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servecast.estimator.cli import store_command
from servecast.simulator.commands.validate_job import ValidateOptions, engine_of, replay
from servecast.simulator.measured.readers import read_run

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDING = "measured/llmservingsim-vllm-0.19/RTXPRO6000__Qwen3-30B-A3B-Instruct-2507"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    return runpy.run_path(str(REPOSITORY / "benchmarks" / "recorded_ranks.py"))


@pytest.fixture
def request_at(script: dict[str, Any]) -> Callable[[float, float, float], Any]:
    """Scheduled, with its first token and with its last, in seconds."""
    return lambda *clocks: script["Request"](*clocks, 8, 2)


def test_one_clock_is_one_rank_and_two_nearby_are_two(
    script: dict[str, Any], request_at: Callable[[float, float, float], Any]
) -> None:
    """0 and 1 are scheduled in one pass; 2's last token comes in the step of 0's first, 0.1 ms apart."""
    requests = [request_at(1.0, 2.0, 5.0), request_at(1.0, 3.0, 6.0), request_at(0.5, 1.5, 2.0001)]
    assert list(script["pairs"](requests)) == [(0, 2, False), (0, 1, True)]


def test_of_two_ranks_who_parted_from_one_is_with_the_other(script: dict[str, Any]) -> None:
    parted = [(0, 1, True), (1, 2, False), (3, 2, True)]
    assert script["contradicted"]([*parted, (0, 3, False)], 4) == 0
    assert script["contradicted"]([*parted, (0, 3, True), (1, 3, True), (0, 2, False)], 4) == 2


def test_the_recordings_clocks_never_contradict_each_other(
    script: dict[str, Any], shared_data: Path
) -> None:
    requests = script["requests_of"](shared_data / RECORDING)
    found = list(script["pairs"](requests))
    assert len(found) > 200
    assert script["contradicted"](found, len(requests)) == 0


@pytest.mark.slow
def test_the_simulated_balancer_sends_most_requests_as_the_recorded_one_did(
    script: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    """By chance it would part half of the pairs otherwise. Where a step is foretold some ms too long or too
    short, one request is sent elsewhere, and others after it.
    """
    store, profiles = tmp_path / "profiles.duckdb", shared_data / "profiles" / "llmservingsim"
    taken = CliRunner().invoke(
        store_command, ["import", "llmservingsim", str(profiles), "--store", str(store)]
    )
    assert taken.exit_code == 0, taken.output
    asked = ValidateOptions(
        REPOSITORY / "spec" / "qwen3.llm", shared_data / RECORDING, "rtx-pro-6000", {},
        model="qwen3-30b-a3b", store=store, sources=("llmservingsim", "silicon"),
    )  # fmt: skip
    run = read_run(asked.run)
    rank = replay(asked, run, engine_of(asked, run)).records.replica.tolist()
    found = list(script["pairs"](script["requests_of"](asked.run)))
    otherwise = [pair for pair in found if (rank[pair[0]] == rank[pair[1]]) != pair[2]]
    assert len(otherwise) < len(found) / 4
