"""Predicted against measured: no error on our own recording, and a known one on a distorted one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from engine_cases import tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.estimator.cli import store_command
from servecast.simulator.commands.validate_job import ValidateOptions, run_validation
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Fleet, simulate
from servecast.simulator.measured.curves import compare_curves
from servecast.simulator.measured.readers import MeasuredRun
from servecast.simulator.measured.run import Curve
from servecast.simulator.measured.validate import (
    STATISTICS,
    compare,
    comparison_json,
    predicted_latencies,
)
from servecast.simulator.traffic.workload import Workload

REPOSITORY = Path(__file__).resolve().parents[2]


def simulated(num_requests: int = 40) -> tuple[Workload, Records]:
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=8, kv_blocks=20, block_tokens=4)
    workload = workload_of(*((2.0 * i, 3 + i % 5, 2 + i % 3) for i in range(num_requests)))
    return workload, simulate(workload, Fleet(tables_of(), limits), compiled=False)


def recorded(workload: Workload, records: Records, slower: float = 1.0) -> MeasuredRun:
    """The simulation itself as a recording whose engine took ``slower`` times as long."""
    latencies_s = {m: v * slower for m, v in predicted_latencies(records).items()}
    gaps_s = [np.diff(times) for times in records.token_times()]
    return MeasuredRun(workload, "server", latencies_s, np.concatenate(gaps_s) * slower)


def test_our_own_recording_shows_no_error() -> None:
    workload, records = simulated()
    for row in compare(recorded(workload, records), records):
        assert row.measured_s == pytest.approx(row.predicted_s), row
        assert row.error == pytest.approx(0, abs=1e-12), row


def test_curves_count_the_simulated_requests_at_the_recorded_moments() -> None:
    _, records = simulated()
    at_s = np.linspace(0, records.finish_s.max(), 17)
    counted = {
        "running": [sum((records.scheduled_s <= t) & (records.finish_s > t)) for t in at_s],
        "waiting": [sum((records.arrival_s <= t) & (records.scheduled_s > t)) for t in at_s],
    }
    assert max(counted["running"]) > 1
    curves = {name: Curve(at_s, np.array(values, float) + 1) for name, values in counted.items()}
    for row in compare_curves(curves, records):
        assert row["mean_distance"] == pytest.approx(1), row
        assert row["measured_mean"] - row["predicted_mean"] == pytest.approx(1), row
        assert row["predicted_peak"] == max(counted[row["curve"]])


def test_an_engine_twice_as_slow_shows_half_with_an_interval_around_it() -> None:
    workload, records = simulated()
    rows = compare(recorded(workload, records, slower=2), records)
    assert {row.metric for row in rows} == {"queue_delay", "ttft", "tpot", "e2e", "tbt"}
    assert [row.statistic for row in rows if row.metric == "ttft"] == list(STATISTICS)
    for row in rows:
        if row.measured_s > 0:
            assert row.error == pytest.approx(-0.5)


def test_statistics_worked_by_hand() -> None:
    workload, records = simulated(4)
    ttft_s = predicted_latencies(records)["ttft"]
    run = dataclasses.replace(
        recorded(workload, records),
        latencies_s={"ttft": np.array([1.0, 2.0, 3.0, 10.0])},
        gaps_s=None,
    )
    mean, p50, p90, *_ = compare(run, records)
    assert (mean.measured_s, p50.measured_s, p90.measured_s) == (4, 2, 10)
    assert mean.error == pytest.approx(ttft_s.mean() / 4 - 1)
    assert p50.predicted_s == sorted(ttft_s)[1]


def test_intervals_hold_the_error_and_widen_with_disagreement() -> None:
    workload, records = simulated()
    rng = np.random.default_rng(0)
    widths = []
    for spread in (0.05, 0.5):
        noise = rng.lognormal(0, spread, len(workload))
        ttft_s = predicted_latencies(records)["ttft"] * noise
        run = MeasuredRun(workload, "client", {"ttft": ttft_s})
        mean = compare(run, records)[0]
        assert mean.error_low is not None
        assert mean.error_high is not None
        assert mean.error_low <= mean.error <= mean.error_high
        widths.append(mean.error_high - mean.error_low)
    assert widths[1] > 2 * widths[0]


def test_requests_that_were_not_recorded_are_compared_on_neither_side() -> None:
    workload, records = simulated()
    latencies_s = {m: v.copy() for m, v in predicted_latencies(records).items()}
    latencies_s["e2e"][::2] = np.nan
    rows = compare(MeasuredRun(workload, "server", latencies_s), records)
    assert all(row.error == pytest.approx(0, abs=1e-12) for row in rows)


def test_nothing_in_common_is_one_sentence() -> None:
    workload, records = simulated()
    run = MeasuredRun(workload, "server", {"e2e": np.full(len(workload), np.nan)})
    with pytest.raises(UserError, match="rows: no request has a e2e both measured and predicted"):
        compare(run, records)


def test_an_error_against_nothing_is_null_in_json() -> None:
    workload, records = simulated()
    latencies_s = {"queue_delay": np.zeros(len(workload))}
    text = json.dumps(
        comparison_json(compare(MeasuredRun(workload, "server", latencies_s), records))
    )
    assert "Infinity" not in text
    assert json.loads(text)[0]["error"] is None


def test_equal_seeds_give_equal_intervals() -> None:
    workload, records = simulated()
    run = recorded(workload, records, slower=1.3)
    assert compare(run, records, seed=4) == compare(run, records, seed=4)


def public_run(shared_data: Path, name: str) -> Path:
    return shared_data / "measured" / "llmservingsim-vllm-0.19" / name


@pytest.fixture(scope="module")
def profiles(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with LLMServingSim's kernel profiles of the machines that were recorded."""
    store = tmp_path_factory.mktemp("store") / "profiles.duckdb"
    folder = str(shared_data / "profiles" / "llmservingsim")
    arguments = ["import", "llmservingsim", folder, "--store", str(store)]
    taken = CliRunner().invoke(store_command, arguments)
    assert taken.exit_code == 0, taken.output
    return store


PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
MOVED = {"ttft": 0.04, "tpot": 0.02, "e2e": 0.02}  # by more, and the page has to be made again


def shown_means_s(name: str) -> dict[str, float]:
    """The mean predictions of a recording as docs/accuracy.md shows them."""
    section = PAGE.read_text(encoding="utf-8").split(f"### {name}\n")[1].split("\n#")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines()]
    return {row[1]: float(row[4]) for row in rows if len(row) > 5 and row[2] == "mean"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sku", "spec", "model"),
    [
        ("RTX4090__Llama-3.1-8B", "rtx-4090", "llama.llm", "llama-3.1-8b"),
        ("RTXPRO6000__Llama-3.1-8B", "rtx-pro-6000", "llama.llm", "llama-3.1-8b"),
        ("RTXPRO6000__Qwen3-30B-A3B-Instruct-2507", "rtx-pro-6000", "qwen3.llm", "qwen3-30b-a3b"),
    ],
)
def test_predictions_are_still_those_of_the_accuracy_page(
    shared_data: Path, profiles: Path, name: str, sku: str, spec: str, model: str
) -> None:
    """A change that moves them is shown by regenerating the page: benchmarks/scoreboard.py."""
    found = run_validation(
        ValidateOptions(
            PAGE.parents[1] / "spec" / spec,
            public_run(shared_data, name),
            sku,
            {},
            model=model,
            store=profiles,
            sources=("llmservingsim", "silicon"),
        )
    )
    means_s = {
        r["metric"]: r["predicted_s"] for r in found["comparison"] if r["statistic"] == "mean"
    }
    shown_s = shown_means_s(name)
    for metric, most in MOVED.items():
        assert means_s[metric] == pytest.approx(shown_s[metric], rel=most), metric
