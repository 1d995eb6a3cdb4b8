"""The loader: fits once, answers from the store the second time, and falls back to the datasheet."""

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Linear
from servecast.compiler.sharded import Call, Rows, Run, ShardedProgram
from servecast.estimator.build import build_tables
from servecast.estimator.engine_profile import ENGINE_PROFILES
from servecast.estimator.learners.uncertainty import ANALYTICAL_HALF_WIDTH, MEASURED_HALF_WIDTH
from servecast.estimator.load import TableLoader, load_predictor
from servecast.estimator.measurement import MeasurementBatch
from servecast.estimator.profiling.profile_cli import profile_command
from servecast.estimator.store import Store
from servecast.estimator.tables import RuntimeTables, Source, TableBounds
from servecast.estimator.uncertain import Step

BOUNDS = TableBounds(64, 8, 4096, 4096)
Model = Callable[..., ShardedProgram]


@pytest.fixture
def path(tmp_path: Path, small_batches: Sequence[MeasurementBatch]) -> Path:
    """A store on disk with measurements of the small GPU."""
    where = tmp_path / "profiles.duckdb"
    with Store.open(where) as store:
        store.add_batches(small_batches)
    return where


def same(one: RuntimeTables, other: RuntimeTables) -> bool:
    names = [f.name for f in fields(RuntimeTables)]
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def test_the_second_run_answers_alike_to_the_last_bit(path: Path, gpu: Sku, model: Model) -> None:
    first = TableLoader(path).tables(model(), gpu, BOUNDS)
    assert same(first, TableLoader(path).tables(model(), gpu, BOUNDS))


def test_the_second_run_needs_no_scikit_learn(path: Path, gpu: Sku, model: Model) -> None:
    TableLoader(path).tables(model(), gpu, BOUNDS)
    query = path.with_name("query")
    query.write_bytes(pickle.dumps((path, model(), gpu, BOUNDS)))
    subprocess.run([sys.executable, "-c", AGAIN, str(query)], check=True)


AGAIN = """
import pickle, sys
from servecast.estimator.load import TableLoader
path, *query = pickle.load(open(sys.argv[1], "rb"))
TableLoader(path).tables(*query)
assert not {"sklearn", "scipy"} & set(sys.modules), "imported"
"""


def test_new_measurements_make_new_tables(
    path: Path, gpu: Sku, model: Model, small_batches: Sequence[MeasurementBatch]
) -> None:
    before = TableLoader(path).tables(model(), gpu, BOUNDS)
    faster = small_batches[0]
    with Store.open(path) as store:
        times = {"mean_s": faster.times_s["mean_s"] * 0.9}
        store.add_batches([replace(faster, times_s=times)])
    after = TableLoader(path).tables(model(), gpu, BOUNDS)
    assert not same(before, after)


def test_one_fit_serves_every_parallelism_expected(path: Path, gpu: Sku, model: Model) -> None:
    loader = TableLoader(path)
    loader.expect(gpu, [model(), model(tp=2)])
    loader.tables(model(), gpu, BOUNDS)
    fitted = _artefacts(path)
    loader.tables(model(tp=2), gpu, BOUNDS)
    assert _artefacts(path)["model"] == fitted["model"]
    assert _artefacts(path)["tables"] == fitted["tables"] + 1


def _artefacts(path: Path) -> dict[str, int]:
    with Store.open(path) as store:
        return store.artefacts()


def test_another_engine_profile_makes_other_tables(path: Path, gpu: Sku, model: Model) -> None:
    bare = TableLoader(path, engine=ENGINE_PROFILES["none"]).tables(model(), gpu, BOUNDS)
    assert bare.host_step_s == 0
    assert TableLoader(path).tables(model(), gpu, BOUNDS).host_step_s > 0


def test_without_measurements_every_time_is_analytical_and_said_so(gpu: Sku, model: Model) -> None:
    loader = TableLoader(None)
    shares = loader.tables(model(), gpu, BOUNDS).token_shares[1:]
    assert (shares[:, list(Source).index(Source.ANALYTICAL)] == 1).all()
    assert loader.notes(gpu) == ("gpu: nothing measured, every time is from the datasheet",)


def test_without_a_store_the_last_tables_alone_are_kept(
    gpu: Sku, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servecast.estimator.load.RECENT", 2)
    built: list[TableBounds] = []

    def counted(*args: Any) -> RuntimeTables:
        built.append(args[2])
        return build_tables(*args)

    monkeypatch.setattr("servecast.estimator.load.build_tables", counted)
    loader = TableLoader(None)
    one, two, three = (replace(BOUNDS, max_batched_tokens=tokens) for tokens in (16, 32, 64))
    asked = [one, two, two, one, three, three, one]  # three drives one out
    given = [loader.tables(model(), gpu, each) for each in asked]
    assert built == [one, two, three, one]
    assert same(given[0], given[3])
    assert same(given[0], given[6])


def test_provenance_names_package_licence_and_rows(path: Path, gpu: Sku, model: Model) -> None:
    told = TableLoader(path).provenance(gpu)
    data = told["data"]
    assert isinstance(data, list)
    assert {(d["package"], d["version"], d["licence"]) for d in data} == {("a package", "1", "MIT")}
    assert sum(d["rows"] for d in data) > 200
    assert TableLoader(path).notes(gpu) == ("gpu: kernel timings from a package 1 (MIT)",)


def test_a_store_that_is_none_is_named(tmp_path: Path, gpu: Sku, model: Model) -> None:
    path = tmp_path / "text.duckdb"
    path.write_text("hello " * 1000)
    with pytest.raises(DataMissingError, match=r"text\.duckdb: cannot be opened"):
        TableLoader(path).tables(model(), gpu, BOUNDS)
    with pytest.raises(DataMissingError, match=r"text\.duckdb: cannot be opened"):
        load_predictor(path, gpu, [model()])


def test_what_is_least_certain_of_a_step_is_named_first(path: Path, gpu: Sku, model: Model) -> None:
    """Without measurements of sends, two stages' sends are from the datasheet: 5 of 10 either way."""
    found = TableLoader(path).uncertain_operators(model(pp=2), gpu, Step(40, 8, 1000))
    assert sum(x.share for x in found) == pytest.approx(1)
    reach = [x.share * x.half_width for x in found]
    assert reach == sorted(reach, reverse=True)
    half_widths = {x.operator.split()[0]: x.half_width for x in found}
    assert half_widths["send"] == ANALYTICAL_HALF_WIDTH
    assert half_widths["attention_decode"] == MEASURED_HALF_WIDTH


def test_a_step_without_decodes_spends_nothing_on_them(path: Path, gpu: Sku, model: Model) -> None:
    found = TableLoader(path).uncertain_operators(model(), gpu, Step(64, 0, 0))
    shares = {x.operator.split()[0]: x.share for x in found}
    assert shares["attention_decode"] == 0
    assert shares["attention_prefill"] > 0


def wide(sharded: ShardedProgram, out_features: int) -> ShardedProgram:
    """The small model with another head."""
    (stage,) = sharded.stages
    head = Run("head", (Call("lm_head", Linear(256, out_features), Rows.LAST_TOKENS),))
    return replace(sharded, stages=(replace(stage, runs=(stage.runs[0], head)),))


def test_what_lies_outside_the_data_is_noted_also_by_the_second_run(
    path: Path, gpu: Sku, model: Model
) -> None:
    note = "gpu: extrapolated: linear bf16 in_features=256 out_features=4096: out_features is 2.0 octaves"
    for _ in range(2):
        loader = TableLoader(path)
        loader.tables(wide(model(), 4096), gpu, BOUNDS)
        assert loader.notes(gpu)[1] == f"{note} beyond the data"


def test_what_lies_too_far_outside_is_refused_with_what_to_measure(
    path: Path, gpu: Sku, model: Model
) -> None:
    message = r"out_features is 5.0 octaves beyond .*: servecast profile SPEC --model small --tp 1 --agent"
    with pytest.raises(DataMissingError, match=message):
        TableLoader(path).tables(wide(model(), 32768), gpu, BOUNDS)


def test_a_draw_moves_what_is_predicted_and_hardly_what_was_measured(
    path: Path, gpu: Sku, model: Model, small_batches: Sequence[MeasurementBatch]
) -> None:
    gemm = small_batches[0]
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, gemm.num_rows))
    small = gemm.dims["in_features"] * gemm.dims["out_features"] == 256 * 256
    noisy = {"mean_s": gemm.times_s["mean_s"] * np.where(small, 1, noise)}
    path = path.with_name("noisy.duckdb")
    with Store.open(path) as store:
        store.add_batches([replace(gemm, times_s=noisy), *small_batches[1:]])
    loader = TableLoader(path)
    plain = loader.tables(model(), gpu, BOUNDS)
    drawn = [loader.drawn_tables(model(), gpu, BOUNDS, draw) for draw in (1, 1, 2)]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[0], drawn[2])
    measured = 64  # rows on the grid of measurements
    assert drawn[0].token_s[0, measured] == pytest.approx(plain.token_s[0, measured], rel=0.06)
    assert drawn[0].token_s[0, 40] != pytest.approx(plain.token_s[0, 40], rel=1e-4)


def test_a_step_too_far_beyond_the_largest_measured_is_refused_with_what_to_measure(
    path: Path, gpu: Sku, model: Model
) -> None:
    """Rows were measured up to 4096: sixteen times as many are four octaves more."""
    message = (
        r"rows 65536 is 4.0 octaves beyond .*: servecast profile SPEC --model small --tp 1 --agent"
        r" HOST:PORT --store FILE --max-num-batched-tokens 65536 --max-num-seqs 8"
    )
    with pytest.raises(DataMissingError, match=message):
        TableLoader(path).tables(model(), gpu, replace(BOUNDS, max_batched_tokens=65536))


def test_the_command_that_a_refusal_names_is_one_that_profile_takes(
    path: Path, gpu: Sku, model: Model
) -> None:
    with pytest.raises(DataMissingError) as refused:
        TableLoader(path).tables(model(), gpu, replace(BOUNDS, max_batched_tokens=65536))
    _, _, named = str(refused.value).partition("servecast profile ")
    taken = profile_command.make_context("profile", shlex.split(named.replace("SPEC", __file__)))
    assert taken.params["tp"] == (1,)
    assert taken.params["model"] == "small"
    assert taken.params["max_num_batched_tokens"] == 65536


def test_a_step_somewhat_beyond_the_largest_measured_is_noted(
    path: Path, gpu: Sku, model: Model
) -> None:
    loader = TableLoader(path)
    loader.tables(model(), gpu, replace(BOUNDS, max_batched_tokens=8192))
    assert any("rows 8192 is 1.0 octaves beyond the data" in note for note in loader.notes(gpu))
