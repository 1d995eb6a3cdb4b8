"""Predictions: measured cases as measured, the rest labelled, nothing against physics."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servecast.compiler.errors import DataMissingError
from servecast.compiler.formats import FP16
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Linear
from servecast.compiler.kernels import KernelCase
from servecast.compiler.sharded import Call, Parallelism, Run, ShardedProgram, Stage
from servecast.estimator.anchored_times import missed_between
from servecast.estimator.learners.beyond import beyond
from servecast.estimator.learners.choice import fit_best
from servecast.estimator.learners.features import feature_matrix, positions
from servecast.estimator.learners.forest import LEAF, FlatForest, KernelModel
from servecast.estimator.learners.roofline import FittedRoofline, analytical_s
from servecast.estimator.measurement import Ints, Measurement, MeasurementBatch, Origin, Timing
from servecast.estimator.physics import KernelKind, shortest_s
from servecast.estimator.predictor import Predictor, samples_of
from servecast.estimator.sources import predictor_from
from servecast.estimator.store import Store
from servecast.estimator.tables import SOURCES, Source

LINEAR = KernelKind("linear", "bf16")
ALL_REDUCE = KernelKind("all_reduce", "bf16")


def gemm(rows: int, k: int, n: int) -> dict[str, Ints]:
    return {
        "rows": np.array([rows]),
        "in_features": np.array([k]),
        "out_features": np.array([n]),
    }


def reduce_of(size: int, degree: int = 2) -> dict[str, Ints]:
    return {"degree": np.array([degree]), "payload_bytes": np.array([size])}


def source_of(predictor: Predictor, kind: KernelKind, dims: dict[str, Ints]) -> Source:
    return SOURCES[int(predictor.predict(kind, dims).source[0])]


def test_a_measured_case_is_answered_with_its_measurement(predictor: Predictor) -> None:
    answer = predictor.predict(LINEAR, gemm(4096, 1024, 1024))
    assert answer.seconds[0] == 3e-6 + 1.5 * (2.0 * 4096 * 1024 * 1024) / 100e12
    assert SOURCES[answer.source[0]] is Source.IMPORTED


def test_an_unmeasured_case_is_labelled_by_where_it_lies(predictor: Predictor) -> None:
    assert source_of(predictor, LINEAR, gemm(4000, 1024, 512)) is Source.INTERPOLATED
    assert source_of(predictor, LINEAR, gemm(4000, 1024, 4096)) is Source.EXTRAPOLATED


def test_a_kernel_nobody_measured_is_analytical(predictor: Predictor, gpu: Sku) -> None:
    kind, dims = KernelKind("add", "bf16"), {"rows": np.array([64]), "width": np.array([256])}
    answer = predictor.predict(kind, dims)
    assert SOURCES[answer.source[0]] is Source.ANALYTICAL
    assert answer.seconds[0] == analytical_s(gpu, kind, dims)[0]


def test_our_own_measurement_displaces_an_imported_one(store: Store, gpu: Sku) -> None:
    dims = tuple((name, int(value[0])) for name, value in sorted(gemm(64, 512, 512).items()))
    ours = Measurement(KernelCase("linear", "bf16", "", dims), "gpu", Origin("agent"), Timing(9e-6))
    store.add_measurements([ours])
    mixed = predictor_from(store, gpu, [], ["agent", "silicon"])
    assert mixed.kinds == ()
    data = store.kernel_data("gpu", "linear", ("bf16", ""), ["agent", "silicon"])
    samples = samples_of(data.dims, data.seconds, data.source == "agent")
    row, exact = samples.find(gemm(64, 512, 512))
    assert exact[0]
    assert samples.seconds[row[0]] == 9e-6
    assert samples.local[row[0]]


def test_of_repeated_measurements_the_median_counts_and_of_two_their_mean() -> None:
    dims = {"rows": np.array([1, 1, 1, 2, 2])}
    samples = samples_of(dims, np.array([5.0, 1.0, 2.0, 8.0, 7.0]), np.zeros(5, dtype=np.bool_))
    assert dict(zip(samples.dims["rows"], samples.seconds, strict=True)) == {1: 2.0, 2: 7.5}


def test_the_first_source_with_rows_of_a_kernel_is_the_only_imported_one(
    store: Store, gpu: Sku, model: object
) -> None:
    slow = MeasurementBatch(
        *("linear", "bf16", "", "gpu", Origin("vidur")),
        dims=gemm(64, 512, 512),
        times_s={"mean_s": np.array([1.0])},
    )
    store.add_batches([slow])
    assert callable(model)
    program = model()
    first = predictor_from(store, gpu, [program], ["silicon", "vidur"])
    assert first.predict(LINEAR, gemm(64, 512, 512)).seconds[0] < 1e-3
    alone = predictor_from(store, gpu, [program], ["vidur"])
    assert alone.predict(LINEAR, gemm(64, 512, 512)).seconds[0] == 1.0


def test_collectives_are_looked_up_between_message_sizes(predictor: Predictor) -> None:
    answer = predictor.predict(ALL_REDUCE, reduce_of(3 * 2**14))
    low, high = 5e-6 + 2**15 / 50e9, 5e-6 + 2**16 / 50e9
    assert low < answer.seconds[0] < high
    assert SOURCES[answer.source[0]] is Source.INTERPOLATED


def test_beyond_the_largest_message_time_grows_in_proportion(predictor: Predictor) -> None:
    largest = 5e-6 + 2**23 / 50e9
    answer = predictor.predict(ALL_REDUCE, reduce_of(2**25))
    assert answer.seconds[0] == pytest.approx(4 * largest)
    assert SOURCES[answer.source[0]] is Source.EXTRAPOLATED


def test_a_degree_that_was_not_measured_is_analytical(predictor: Predictor) -> None:
    assert source_of(predictor, ALL_REDUCE, reduce_of(2**16, degree=4)) is Source.ANALYTICAL


def test_a_measurement_against_physics_is_raised_to_the_floor(store: Store, gpu: Sku) -> None:
    dims = gemm(2**20, 1024, 1024)
    impossible = MeasurementBatch(
        *("linear", "bf16", "", "gpu", Origin("silicon")),
        dims=dims,
        times_s={"mean_s": np.array([1e-9])},
    )
    store.add_batches([impossible])
    data = store.kernel_data("gpu", "linear", ("bf16", ""), ["silicon"])
    samples = samples_of(data.dims, data.seconds, data.source == "agent")
    answer = Predictor(gpu, 132, samples={LINEAR: samples}).predict(LINEAR, dims)
    assert answer.seconds[0] == shortest_s(gpu, LINEAR, dims)[0]
    assert answer.raised == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 10**5))
def test_no_gemm_beats_the_datasheet(predictor: Predictor, rows: int, k: int, n: int) -> None:
    dims = gemm(rows, k, n)
    assert predictor.predict(LINEAR, dims).seconds[0] >= shortest_s(predictor.sku, LINEAR, dims)[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(1, 10**11), st.integers(2, 16))
def test_no_collective_beats_its_link(predictor: Predictor, size: int, degree: int) -> None:
    dims = reduce_of(size, degree)
    floor = shortest_s(predictor.sku, ALL_REDUCE, dims)[0]
    assert predictor.predict(ALL_REDUCE, dims).seconds[0] >= floor


def test_a_predictor_travels_between_processes(predictor: Predictor) -> None:
    again = pickle.loads(pickle.dumps(predictor))
    dims = gemm(33, 700, 300)
    assert again.predict(LINEAR, dims).seconds[0] == predictor.predict(LINEAR, dims).seconds[0]


def test_fp16_is_answered_from_bf16_rows(store: Store, gpu: Sku) -> None:
    program = ShardedProgram(
        *("half", 4096, Parallelism()),
        (Stage(0, (Run("layers", (Call("proj", Linear(256, 256, FP16, FP16)),)),)),),
    )
    half = predictor_from(store, gpu, [program], ["silicon"])
    answer = half.predict(KernelKind("linear", "fp16"), gemm(64, 256, 256))
    assert SOURCES[int(answer.source[0])] is Source.IMPORTED
    assert half.notes == ("gpu: linear fp16: measured as bf16",)


def test_between_measured_row_counts_a_shape_keeps_what_its_model_misses(
    predictor: Predictor,
) -> None:
    """The very model, and samples of one shape that is a third slower than the model thinks."""
    rows = np.array([64, 128])
    dims = {"rows": rows, "in_features": rows * 0 + 300, "out_features": rows * 0 + 300}
    model = predictor.models[LINEAR]
    thought = model.predict(feature_matrix(LINEAR, dims, predictor.num_sms))
    slower = samples_of(dims, thought * 4 / 3, np.zeros(2, dtype=np.bool_))
    anchored = replace(predictor, samples={LINEAR: slower})
    between = gemm(96, 300, 300)
    alone = model.predict(feature_matrix(LINEAR, between, predictor.num_sms))[0]
    assert anchored.predict(LINEAR, between).seconds[0] == pytest.approx(alone * 4 / 3)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (KernelKind("linear", "fp8"), {"rows": 4, "in_features": 8, "out_features": 16}),
        (
            KernelKind("experts", "mxfp4"),
            {
                **{"rows": 3, "hidden": 64, "intermediate": 32},
                **{"experts": 8, "total_experts": 16, "top_k": 2},
            },
        ),
        (
            KernelKind("attention_decode", "bf16", "bf16"),
            {"heads": 8, "kv_heads": 2, "head_dim": 64, "window": 0, "batch": 3, "context": 100},
        ),
        (KernelKind("rms_norm", "bf16"), {"rows": 4, "width": 8, "per_row": 1, "residual": 0}),
    ],
    ids=lambda each: getattr(each, "kernel", ""),
)
def test_a_kernels_features_do_not_depend_on_the_order_of_its_dimensions(
    kind: KernelKind, sizes: dict[str, int]
) -> None:
    """A store's samples name theirs in another order than a program's launches."""
    dims = {name: np.array([size]) for name, size in sizes.items()}
    backwards = dict(reversed(dims.items()))
    assert feature_matrix(kind, dims, 132).tolist() == feature_matrix(kind, backwards, 132).tolist()


def test_too_few_samples_for_a_model_still_put_the_datasheet_right_between_them(gpu: Sku) -> None:
    """Of a norm, 10 times the datasheet at 4 rows and 40 times at 16: at 8 it is 20 times, not once."""
    kind = KernelKind("rms_norm", "bf16")

    def norm(*rows: int) -> dict[str, Ints]:
        some = np.array(rows)
        return {
            "rows": some,
            "width": 0 * some + 512,
            "per_row": 0 * some + 1,
            "residual": 0 * some,
        }

    thought = analytical_s(gpu, kind, norm(4, 16))
    few = samples_of(norm(4, 16), thought * (10, 40), np.ones(2, dtype=np.bool_))
    answer = Predictor(gpu, 132, samples={kind: few}).predict(kind, norm(4, 8, 64))
    assert answer.seconds / analytical_s(gpu, kind, norm(4, 8, 64)) == pytest.approx([10, 20, 1])
    told = [Source.MEASURED, Source.INTERPOLATED, Source.ANALYTICAL]
    assert [SOURCES[code] for code in answer.source] == told


def test_what_is_missed_between_measured_rows_is_a_line_of_logarithms_and_unknown_outside() -> None:
    """Of 1 s, at 2 and 8 s measured: 4 s half-way in octaves."""
    rows = np.array([16, 64])
    measured = {"rows": rows, "hidden": 0 * rows + 8}, np.array([2.0, 8.0])
    asked = {"rows": np.array([32, 64, 128, 32]), "hidden": np.array([8, 8, 8, 9])}
    missed = missed_between(lambda dims: np.ones(len(dims["rows"])), asked, measured)
    assert np.exp(missed) == pytest.approx([4.0, 8.0, np.nan, np.nan], nan_ok=True)


def test_between_token_counts_experts_believe_half_of_their_trees(gpu: Sku) -> None:
    """A tree that quadruples a roofline of 1 s at 32 tokens alone, where neighbours took 1 s: 2 s, not 4."""
    kind = KernelKind("experts", "bf16")
    rows = np.array([16, 64])
    sizes = {"hidden": 8, "intermediate": 8, "experts": 4, "total_experts": 4, "top_k": 2}

    def tokens(counts: Ints) -> dict[str, Ints]:
        return {"rows": counts, **{name: 0 * counts + size for name, size in sizes.items()}}

    at = positions(kind, tokens(rows), ("rows",))[0]
    tree = FlatForest(  # a left child is the next node
        roots=np.array([0], dtype=np.int32),
        feature=np.array([at, LEAF, at, LEAF, LEAF], dtype=np.int16),
        number=np.array([20, 0, 50, np.log(4), 0], dtype=np.float32),
        right=np.array([2, 0, 4, 0, 0], dtype=np.int32),
    )
    model = KernelModel(FittedRoofline(1.0, 0.0, 0.0), tree)
    samples = samples_of(tokens(rows), np.ones(2), np.zeros(2, dtype=np.bool_))
    found = Predictor(gpu, 132, samples={kind: samples}, models={kind: model})
    assert found.predict(kind, tokens(np.array([16, 32, 128]))).seconds == pytest.approx([1, 2, 1])


def test_beyond_the_most_rows_a_quantising_gemm_follows_its_line(gpu: Sku) -> None:
    """20 us and 10 ns a row at every shape, measured up to 4096 rows: at 32,768 that is 347.7 us."""
    kind = KernelKind("linear", "fp8")
    rows, k, n = (g.ravel() for g in np.meshgrid(2 ** np.arange(13), [256, 512], [256, 512, 1024]))
    dims = {"rows": rows, "in_features": k, "out_features": n}
    seconds = np.asarray(20e-6 + 10e-9 * rows, dtype=np.float64)
    samples = samples_of(dims, seconds, np.zeros(len(rows), dtype=np.bool_))
    model = fit_best(kind, samples, 132, "few")
    found = Predictor(gpu, 132, samples={kind: samples}, models={kind: model})
    expected = 20e-6 + 10e-9 * 32768
    assert found.predict(kind, gemm(32768, 256, 512)).seconds[0] == pytest.approx(expected, rel=0.1)
    law = lambda d: np.asarray(20e-6 + 10e-9 * d["rows"], dtype=np.float64)  # noqa: E731
    line = beyond(law, gemm(32768, 256, 512), 4096)
    assert line[0] == pytest.approx(expected)


def test_a_model_against_physics_is_not_saved(store: Store, gpu: Sku, model: object) -> None:
    """Rows of a GPU of 100 TFLOP/s, said to be one of 20."""
    assert callable(model)
    slow = replace(gpu, peak_flops_per_s=(("bf16", 20e12),))
    with pytest.raises(
        DataMissingError, match=r"gpu: the model of linear bf16 answers \d+% of its own"
    ):
        predictor_from(store, slow, [model()], ["silicon"])
    assert "model" not in store.artefacts()
