"""``servecast calibrate`` and ``drift`` from recording to engine profile to the next prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from servecast.simulator.cli import cli
from servecast.simulator.commands.calibrate_job import replayed, terms_of
from servecast.simulator.commands.validate_job import ValidateOptions, engine_of, replay
from servecast.simulator.measured.readers import read_run

SPEC = Path(__file__).parents[2] / "spec" / "llama.llm"
OPTIONS = (
    "--sku",
    "h100-sxm",
    "--model",
    "llama-3.1-8b",
    "--source",
    "agent",
    "--max-num-seqs",
    "32",
)


def recorded(path: Path, factor: float, prompt_tokens: int = 200) -> Path:
    """A CSV of 240 requests; time per output token is ``factor`` times an idle H100's."""
    rng = np.random.default_rng(0)
    arrival_s = np.cumsum(rng.exponential(0.2, 240))
    rows = ["arrival_s,prompt_tokens,output_tokens,tpot_s"]
    for at_s in arrival_s:
        prompt, output = rng.integers(prompt_tokens // 2, prompt_tokens), rng.integers(8, 24)
        rows.append(f"{at_s:.4f},{prompt},{output},{0.0075 * factor * rng.normal(1, 0.01):.6f}")
    path.write_text("\n".join(rows) + "\n")
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_calibrated_profile_makes_the_next_prediction_right(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "run.csv", factor=1.05)
    store, profile = ("--store", tmp_path / "s.duckdb"), tmp_path / "engine.json"
    code, text, errors = run(
        "calibrate", SPEC, recording, *OPTIONS, *store, "-o", profile, "--json"
    )
    assert code == 0, errors
    found = json.loads(text)
    assert {term["name"] for term in found["terms"]} >= {"matrix_factor", "host_step_s", "client_s"}
    assert abs(found["after"]["held_out"]["tpot"]) < abs(found["before"]["held_out"]["tpot"])
    moved = [term["name"] for term in found["terms"] if not term["refused"]]
    sources = json.loads(profile.read_text())["sources"]
    assert moved
    assert {sources[name] for name in moved} == {"calibrated from run.csv"}
    code, text, errors = run(
        "validate", SPEC, recording, *OPTIONS, *store, "--engine", profile, "--json"
    )
    assert code == 0, errors
    mean = [
        r
        for r in json.loads(text)["comparison"]
        if (r["metric"], r["statistic"]) == ("tpot", "mean")
    ]
    assert mean[0]["error"] == pytest.approx(found["after"]["held_out"]["tpot"], abs=0.02)


def test_before_any_term_moves_calibration_simulates_what_validation_does(tmp_path: Path) -> None:
    """Of ranks that share experts, too, which wait for each other in every step."""
    degrees = {"dp": 2, "ep": 2, "max_num_seqs": 32}
    asked = ValidateOptions(
        SPEC.with_name("qwen3.llm"),
        recorded(tmp_path / "run.csv", factor=1.0),
        "h100-sxm",
        degrees,
        "qwen3-30b-a3b",
        tmp_path / "s.duckdb",
        ("agent",),
    )
    run = read_run(asked.run)
    engine = engine_of(asked, run)
    terms = {term.name: term.value for term in terms_of(engine, run.clock)}
    validated = replay(asked, run, engine).records
    assert validated.modes.keys() == {"lock_step"}
    simulated = replayed(asked, run, engine)(terms)
    assert simulated.finish_s.tolist() == pytest.approx(validated.finish_s.tolist())


def test_a_recording_that_tells_nothing_writes_no_profile(tmp_path: Path) -> None:
    recording = tmp_path / "run.csv"
    rows = [f"{i},8,1,0.0001" for i in range(200)]
    recording.write_text("arrival_s,prompt_tokens,output_tokens,queue_delay_s\n" + "\n".join(rows))
    out = tmp_path / "engine.json"
    code, _, errors = run(
        "calibrate", SPEC, recording, *OPTIONS, "--store", tmp_path / "s.duckdb", "-o", out
    )
    assert code == 2
    assert "has neither TTFT nor time per output token" in errors
    assert not out.exists()


def test_drift_says_what_moved(tmp_path: Path) -> None:
    before = recorded(tmp_path / "a.csv", factor=1.0)
    after = recorded(tmp_path / "b.csv", factor=1.0, prompt_tokens=1600)
    store = ("--store", tmp_path / "s.duckdb")
    code, text, errors = run("drift", SPEC, before, before, *OPTIONS, *store)
    assert (code, text) == (0, "moved: nothing\n"), errors
    code, text, errors = run("drift", SPEC, before, after, *OPTIONS, *store, "--json")
    assert code == 0, errors
    found = json.loads(text)
    assert "workload" in found["moved"]
    assert [change["what"] for change in found["workload"]] == ["prompt_tokens"]


def test_a_damaged_engine_profile_is_refused(tmp_path: Path) -> None:
    recording, profile = recorded(tmp_path / "run.csv", 1.0), tmp_path / "engine.json"
    profile.write_text('{"schema_version": 1, "name": "x"}')
    code, _, errors = run("validate", SPEC, recording, *OPTIONS, "--engine", profile)
    assert code == 2
    assert "is no engine profile of servecast calibrate" in errors
