"""`servecast store` and `servecast fit`: what a person sees, and one sentence where something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from servecast.estimator import intake
from servecast.estimator.cli import FOLDERS, PACKAGES, fit_command, store_command
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.store import Store
from servecast.simulator.cli import cli


@pytest.fixture
def path(tmp_path: Path, small_batches: Sequence[MeasurementBatch]) -> Path:
    where = tmp_path / "profiles.duckdb"
    with Store.open(where) as store:
        store.add_batches(small_batches)
    return where


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_ls_counts_rows_by_kernel(path: Path) -> None:
    rows = json.loads(run("store", "ls", "--json", "--store", path).stdout)
    assert {row["kernel"]: row["rows"] for row in rows}["linear"] == 13 * 16
    table = run("store", "ls", "--store", path).stdout
    assert "attention_decode" in table


def test_show_of_a_gpu_or_kernel_that_is_not_there_names_what_is(path: Path) -> None:
    gpu = run("store", "show", "gpus", "linear", "--store", path)
    assert gpu.exit_code == 4
    assert "no rows of GPU 'gpus' (did you mean 'gpu'?); it has gpu" in gpu.stderr
    kernel = run("store", "show", "gpu", "linaer", "--store", path)
    assert (
        "no rows of 'linaer' (did you mean 'linear'?) on gpu; it has all_reduce, " in kernel.stderr
    )


def test_show_prints_measurements_by_dimension(path: Path) -> None:
    (row,) = json.loads(
        run("store", "show", "gpu", "linear", "--limit", 1, "--json", "--store", path).stdout
    )
    assert (row["rows"], row["in_features"], row["out_features"]) == (1, 128, 128)


def test_doctor_says_what_contradicts_itself(
    path: Path, small_batches: Sequence[MeasurementBatch]
) -> None:
    assert run("store", "doctor", "--store", path).stdout == "nothing\n"
    gemm = small_batches[0]
    with Store.open(path) as store:
        twice = {"mean_s": gemm.times_s["mean_s"] * 2}
        store.add_batches(
            [MeasurementBatch(gemm.kernel, gemm.dtype, "", gemm.sku, gemm.origin, gemm.dims, twice)]
        )
    (finding,) = json.loads(run("store", "doctor", "--json", "--store", path).stdout)
    assert finding["what"] == "cases measured more than once, over 1.5 times apart"
    assert finding["rows"] == 13 * 16
    assert not finding["kept_back"]


def test_importing_vidur_says_what_it_took_and_what_not(tmp_path: Path) -> None:
    folder = tmp_path / "vidur"
    profile = folder / "network" / "h100_dgx" / "all_reduce.csv"
    profile.parent.mkdir(parents=True)
    parts = ",".join(f"time_stats.all_reduce.{p}" for p in ("min", "max", "mean", "median", "std"))
    profile.write_text(
        f"{parts},num_workers,size,devices_per_node\n1,1,1,1,0,8,2048,4\n1,1,1,1,0,8,4096,8\n"
    )
    path = tmp_path / "new.duckdb"
    result = run("store", "import", "vidur", folder, "--store", path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith(f"1 new rows of {folder}; 0 of all")
    assert "not taken: 1 x h100_dgx: all_reduce between nodes" in result.stdout


def test_a_bad_profile_leaves_the_store_as_it_was(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vidur"
    profile = folder / "network" / "h100_dgx" / "all_reduce.csv"
    profile.parent.mkdir(parents=True)
    profile.write_text("num_workers,size,devices_per_node\n8,2048,8\n")
    before = run("store", "ls", "--store", path).stdout
    result = run("store", "import", "vidur", folder, "--store", path)
    assert (result.exit_code, result.stderr.count("\n")) == (4, 1)
    assert "no column time_stats.all_reduce.median" in result.stderr
    assert run("store", "ls", "--store", path).stdout == before


def test_fit_report_compares_learners_on_held_out_shapes(path: Path) -> None:
    result = run("fit", "--sku", "gpu", "--report", "--json", "--store", path)
    (gemm,) = [row for row in json.loads(result.stdout) if row["kernel"] == "linear"]
    assert {"roofline forest", "raw forest", "linear interpolation", "roofline"} <= set(gemm)
    assert gemm["chosen"] in gemm["cross-validated"]
    assert gemm["train"] + gemm["test"] == 13 * 16


def test_fit_report_says_of_which_kernel_nothing_can_be_held_out(tmp_path: Path) -> None:
    """One width of normalisation, as an agent that profiled one model leaves it."""
    path = tmp_path / "one.duckdb"
    rows = np.arange(1, 65)
    dims = {"rows": rows, "width": 0 * rows + 64, "per_row": 0 * rows + 1, "residual": 0 * rows}
    times = {"mean_s": 2e-6 + 1e-8 * rows}
    with Store.open(path) as store:
        store.add_batches(
            [MeasurementBatch("rms_norm", "bf16", "", "gpu", Origin("agent"), dims, times)]
        )
    told = run("fit", "--sku", "gpu", "--source", "agent", "--report", "--store", path).stdout
    assert "a single shape: none to hold out" in told


def test_fit_keeps_a_model_of_every_kernel(path: Path) -> None:
    rows = json.loads(run("fit", "--sku", "gpu", "--json", "--store", path).stdout)
    (gemm,) = [row for row in rows if row["kernel"] == "linear"]
    assert gemm["launch_us"] == pytest.approx(3.0, rel=0.1)
    assert gemm["GB/s"] == pytest.approx(1000 / 1.5, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["store", "ls", "--store", "none.duckdb"], 4, "none.duckdb: no such store"),
        (["store", "import", "vidur"], 2, "needs the FOLDER"),
        (["store", "import", "silicon"], 2, "needs --sku"),
        (["store", "import", "aisimulate", "--sku", "h100-sxm"], 4, "aisimulate is not installed"),
        (["store", "gc", "--store", "none.duckdb"], 4, "none.duckdb: no such store"),
        (["fit", "--sku", "h100-sxm", "--store", "none.duckdb"], 4, "none.duckdb: no such store"),
        (["store", "export", "no/x.parquet"], 2, "no/x.parquet: cannot be written: IO Error"),
        (["fit", "--sku", "tpu"], 4, "no silicon rows of 'tpu'; it has gpu (silicon)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    path: Path, arguments: list[str], code: int, message: str
) -> None:
    extra = [] if "--store" in arguments else ["--store", str(path)]
    result = run(*arguments, *extra)
    assert result.exit_code == code
    assert message in result.stderr


def test_counts_are_printed_as_json_too(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    (export,) = [json.loads(run("store", "export", file, "--json", "--store", path).stdout)]
    merged = run("store", "merge", file, "--json", "--store", tmp_path / "other.duckdb")
    assert json.loads(merged.stdout) == {"new_rows": export["rows"], "kept_back": 0}
    assert export["rows"] > 200
    assert json.loads(run("store", "gc", "--json", "--store", path).stdout) == {"dropped": 0}


def test_every_source_of_measurements_can_be_named() -> None:
    assert (tuple(intake.PACKAGES), tuple(intake.FOLDERS)) == (PACKAGES, FOLDERS)


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from click.testing import CliRunner
from servecast.estimator.cli import fit_command, store_command
for command in (fit_command, store_command):
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0
assert not {"numpy", "duckdb", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {store_command.name, fit_command.name} == {"store", "fit"}
