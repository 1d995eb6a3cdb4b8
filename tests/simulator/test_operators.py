"""What operators took: their times add up to the steps', their sizes are the steps'."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console
from test_simulate import SETUP, loader, run, workload

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES
from servecast.estimator.load import TableLoader
from servecast.simulator.commands.simulate_answer import show
from servecast.simulator.commands.simulate_job import save_simulation
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.speculation import Speculation
from servecast.simulator.metrics.usage import computed_s, moved_bytes
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import Simulated, place
from servecast.simulator.simulate_pools import PoolsSetup, SimulatedPools, simulate_pools

__all__ = ["loader"]
REPOSITORY = Path(__file__).resolve().parents[2]
WINDOWED = load_spec(REPOSITORY / "spec" / "gpt-oss.llm").model("gpt-oss-20b")


def steps_s(loader: TableLoader, done: Simulated, **changes: Any) -> float:
    """What the runtime tables say of the run, without the host's time for each sequence."""
    placement = place(dataclasses.replace(SETUP, **changes), shipped_skus())
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    host_s = ENGINE_PROFILES[DEFAULT_ENGINE].host_per_sequence_s * done.records.sequences.sum()
    sends_s = tables.send_s.sum(axis=0)[done.records.tokens].sum()
    return float(computed_s(tables, done.records) + sends_s - host_s)


@pytest.mark.parametrize(
    "changes", [{}, {"tp": 2, "pp": 2}, {"program": WINDOWED}], ids=["one", "tp 2 pp 2", "windows"]
)
def test_operators_add_up_to_the_steps(loader: TableLoader, changes: dict[str, Any]) -> None:
    done = run(loader, operators=True, **changes)
    rows = done.summary["operators"]
    expected_s = steps_s(loader, done, **changes)
    assert sum(row["time_s"] for row in rows) == pytest.approx(expected_s, rel=1e-4)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(sum(row["time_by_source"].values()) == pytest.approx(1) for row in rows)


def test_a_row_says_how_often_and_with_how_much(loader: TableLoader) -> None:
    """32 layers have a gate and up projection of every token; the head has the last of each sequence."""
    done = run(loader, operators=True)
    rows = {(row["operator"], row["kernel"]): row for row in done.summary["operators"]}
    steps, records = len(done.records.steps), done.records
    up, head = rows["gate_up_proj", "linear"], rows["lm_head", "linear"]
    assert (up["calls"], head["calls"]) == (32 * steps, steps)
    assert up["sizes"]["mean"] == pytest.approx(records.tokens.mean())
    assert head["sizes"]["max"] == records.sequences.max()
    decode = rows["attn", "attention_decode"]
    assert decode["calls"] == 32 * (records.decodes > 0).sum()
    assert decode["sizes"]["mean"] == pytest.approx(records.decodes[records.decodes > 0].mean())


def test_bytes_of_operators_are_those_of_the_run(loader: TableLoader) -> None:
    """All but prefill attention, which the run's bandwidth leaves out."""
    done = run(loader, operators=True)
    sku, sharded = shipped_skus()["h100-sxm"], place(SETUP, shipped_skus()).sharded
    moved = sum(
        row["mbu"] * row["time_s"] * sku.bandwidth_bytes_per_s
        for row in done.summary["operators"]
        if row["size_of"] != "prefill"
    )
    assert moved == pytest.approx(moved_bytes(sharded, done.records).sum())


def test_flops_of_a_projection_are_two_a_weight_and_token(loader: TableLoader) -> None:
    done = run(loader, operators=True)
    up = next(row for row in done.summary["operators"] if row["operator"] == "gate_up_proj")
    peak = shipped_skus()["h100-sxm"].peak("bf16")
    flops = 2 * 32 * 4096 * 2 * 14336 * float(done.records.tokens.sum())
    assert peak is not None
    assert up["mfu"] == pytest.approx(flops / (up["time_s"] * peak))


def test_hidden_collectives_take_what_is_left_of_them() -> None:
    def collectives_s(overlap: float) -> float:
        engine = ENGINE_PROFILES[DEFAULT_ENGINE].given("test", overlap=overlap)
        done = run(TableLoader(None, sources=(), engine=engine), tp=2, operators=True)
        rows = done.summary["operators"]
        return float(sum(row["time_s"] for row in rows if row["size_of"] == "collectives"))

    assert 0 <= collectives_s(0.2) < collectives_s(0.0)


def test_nobody_asked_or_checks_of_drafts_are_null(loader: TableLoader) -> None:
    drafts = Modes(speculation=Speculation())
    assert run(loader).summary["operators"] is None
    assert run(loader, operators=True, modes=drafts).summary["operators"] is None


def test_operators_are_saved_as_a_table(loader: TableLoader, tmp_path: Path) -> None:
    done = run(loader, tp=2, operators=True)
    save_simulation(done, tmp_path)
    found = duckdb.sql(
        f"SELECT operator, time_s, size_mean, mfu FROM '{tmp_path}/operators.parquet'"
    )
    rows = found.fetchall()
    assert [row[:3] for row in rows] == [
        (row["operator"], row["time_s"], row["sizes"]["mean"]) for row in done.summary["operators"]
    ]
    sent = {row["operator"] for row in done.summary["operators"] if row["mbu"] is None}
    assert sent
    assert all((row[3] is None) == (row[0] in sent) for row in rows)


@pytest.mark.parametrize("apart", [False, True])
def test_the_longest_operators_are_printed(apart: bool, loader: TableLoader) -> None:
    asked = dataclasses.replace(SETUP, operators=True)
    done: Simulated | SimulatedPools = run(loader, operators=True)
    if apart:
        pools = PoolsSetup(asked, asked)
        done = simulate_pools(pools, shipped_skus(), workload(), loader)
    console = Console(record=True, width=140, file=io.StringIO())
    show(done.summary, console)
    assert "gate_up_proj" in console.export_text()
    told = {row.get("pool") for row in done.summary["operators"]}
    assert told == ({"prefill", "decode"} if apart else {None})
