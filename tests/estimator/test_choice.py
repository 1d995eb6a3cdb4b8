"""The learner is chosen on whole shapes that it had not seen; what is held out is whole shapes, too."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.learners.beyond import lined_beyond
from servecast.estimator.learners.choice import DEFAULT, choose, fit_best
from servecast.estimator.learners.features import feature_columns, feature_matrix, side_of
from servecast.estimator.learners.splits import folds_of, shapes_of, some_shapes, unseen_shapes
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples, samples_of

LINEAR = KernelKind("linear", "bf16")
DECODE = KernelKind("attention_decode", "bf16", "bf16")
ALL_REDUCE = KernelKind("all_reduce", "bf16")
SIZES = np.array([128, 256, 512, 1024])


def gemms(noise: float = 0.0) -> Samples:
    """Sixteen shapes at thirteen row counts: 3 us and the larger of 100 TFLOP/s and 1 TB/s."""
    rows, k, n = (g.ravel() for g in np.meshgrid(2 ** np.arange(13), SIZES, SIZES))
    bound = np.maximum(2.0 * rows * k * n / 100e12, 2.0 * (k * n + rows * (k + n)) / 1e12)
    wobble = np.exp(np.random.default_rng(0).normal(0, noise, len(rows)))
    dims = {"rows": rows, "in_features": k, "out_features": n}
    return samples_of(dims, (3e-6 + bound) * wobble, np.zeros(len(rows), dtype=np.bool_))


def test_the_least_error_on_shapes_left_out_chooses() -> None:
    choice = choose(LINEAR, gemms(noise=0.05), num_sms=132)
    errors = dict(choice.errors)
    assert {"forest", "randomised", "boosting", "blend", "shallow", "few"} == set(errors)
    assert errors[choice.best] == min(errors.values())
    assert errors["blend"] <= max(errors["randomised"], errors["boosting"])


def test_with_too_few_shapes_nothing_is_tried() -> None:
    samples = gemms()
    few = samples.rows(samples.dims["in_features"] == SIZES[0])
    assert choose(LINEAR, few, num_sms=132).errors == ()
    assert choose(LINEAR, few, num_sms=132).best == DEFAULT


def test_a_fitted_model_tells_its_learner() -> None:
    samples = gemms()
    model = fit_best(LINEAR, samples, 132, "few")
    assert model.learner == "few"
    found = model.predict(feature_matrix(LINEAR, samples.dims, 132))
    assert found == pytest.approx(samples.seconds, rel=0.01)


def test_a_gemm_walks_along_its_inputs_and_writes_its_output_beside_the_roofline() -> None:
    """1 ns for each input of a row and 1 us for a million outputs are told apart from FLOPs and bytes."""
    samples = gemms()
    rows, k, n = (samples.dims[name] for name in ("rows", "in_features", "out_features"))
    times = samples.seconds + 1e-9 * k + 1e-12 * rows * n
    slower = samples_of(samples.dims, times, samples.local)
    columns = list(feature_columns(LINEAR, slower.dims, 132))
    roofline = fit_best(LINEAR, slower, 132, "randomised").roofline
    beside = {columns[column]: rate for column, rate in roofline.side}
    assert beside == pytest.approx({"in_features": 1e-9, "output": 1e-12}, rel=0.05)


def test_an_fp8_gemm_quantises_its_input_beside_the_roofline_and_an_fp16_one_does_not() -> None:
    assert side_of(KernelKind("linear", "fp8")) == ("rows", "inputs", "in_features", "output")
    assert side_of(KernelKind("linear", "fp16")) == ("in_features", "output")
    assert [lined_beyond(KernelKind("linear", x), 4096) for x in ("fp8", "bf16")] == [True, False]


def test_whole_shapes_are_held_out() -> None:
    samples = gemms()
    test, shape = unseen_shapes(LINEAR, samples, seed=0), shapes_of(samples)
    assert len(np.unique(shape[test])) == 3  # a fifth of sixteen
    assert not set(shape[test]) & set(shape[~test])


def test_of_collectives_message_sizes_are_held_out() -> None:
    size = np.tile(2 ** np.arange(10), 2)
    dims = {"degree": np.repeat([2, 4], 10), "payload_bytes": size}
    samples = samples_of(dims, np.ones(20), np.zeros(20, dtype=np.bool_))
    test = unseen_shapes(ALL_REDUCE, samples, seed=0)
    held_out = set(samples.dims["payload_bytes"][test])
    assert len(held_out) == 2
    assert not held_out & set(samples.dims["payload_bytes"][~test])


def test_folds_part_shapes_and_rows_where_shapes_are_too_few() -> None:
    samples = gemms()
    fold, shape = folds_of(samples, 4, seed=0), shapes_of(samples)
    assert all(len(set(fold[shape == number])) == 1 for number in range(16))
    alone = samples.rows(shape == 0)
    assert set(folds_of(alone, 4, seed=0)) == {0, 1, 2, 3}


def test_some_shapes_are_whole_ones_within_the_limit() -> None:
    samples = gemms()
    chosen, shape = some_shapes(samples, max_rows=40, seed=0), shapes_of(samples)
    assert np.count_nonzero(chosen) == 39  # three of thirteen rows
    assert len(np.unique(shape[chosen])) == 3


def test_a_gpu_of_few_rows_borrows_what_another_gpus_model_knows() -> None:
    """Odd row counts cost 1.5 times as much on both; eighteen rows of the slower GPU show less of it."""
    lender, own = wasteful(speed=1.0), wasteful(speed=0.25)
    donor = fit_best(LINEAR, lender, 132, "blend").forest
    few = own.rows(np.isin(np.arange(len(own.seconds)), np.arange(0, len(own.seconds), 23)))
    seen = feature_matrix(LINEAR, own.dims, 132)
    alone, lent = (fit_best(LINEAR, few, 132, "borrowed", d).predict(seen) for d in ((), (donor,)))
    off = [float(np.median(np.abs(found / own.seconds - 1))) for found in (alone, lent)]
    assert off[1] < 0.75 * off[0]


def test_borrowing_is_tried_where_there_is_a_lender() -> None:
    samples = wasteful(speed=0.25)
    donor = fit_best(LINEAR, wasteful(speed=1.0), 132, "blend").forest
    assert "borrowed" in dict(choose(LINEAR, samples, 132, donors=(donor,)).errors)
    assert "borrowed" not in dict(choose(LINEAR, samples, 132).errors)


def test_of_many_rows_the_same_trees_are_tried_with_and_without_their_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("servecast.estimator.learners.choice.FEW_ROWS", 100)
    errors = dict(choose(LINEAR, gemms(noise=0.05), num_sms=132).errors)
    assert {"steady", "nearby"} <= set(errors)
    assert errors["steady"] != errors["nearby"]
    model = fit_best(LINEAR, gemms(), 132, "nearby")
    assert (model.learner, model.nearby is None) == ("nearby", False)
    assert fit_best(LINEAR, gemms(), 132, "steady").nearby is None


def test_of_many_attention_rows_trees_over_logarithms_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("servecast.estimator.learners.choice.FEW_ROWS", 100)
    errors = dict(choose(DECODE, decodes(), num_sms=132).errors)
    tried = {"boosting", "logarithmic", "leafy", "detailed", "swept", "monotone"}
    assert tried == set(errors)
    assert errors["detailed"] <= max(errors["logarithmic"], errors["leafy"])


def test_decodes_may_be_learnt_over_what_flash_attentions_blocks_read() -> None:
    """Where each of 64 heads reads the keys of a window for itself, bytes alone foretell nothing."""
    samples = decodes()
    dims = samples.dims | {"window": np.where(samples.dims["batch"] % 3 == 1, 1024, 0)}
    columns = feature_columns(DECODE, dims, 132)
    written = 1e-9 * columns["batch_heads"]
    times = 3e-6 + 4 * columns["swept"] / 1e12 + written  # two bytes of a key, two of a value
    slower = samples_of(dims, times, samples.local)
    swept, detailed = (fit_best(DECODE, slower, 132, name) for name in ("swept", "detailed"))
    features = np.stack(list(columns.values()), axis=1)
    assert swept.roofline.predict(features) == pytest.approx(times, rel=0.01)
    assert np.abs(np.log(detailed.roofline.predict(features) / times)).max() > 0.5


def decodes() -> Samples:
    """Sixteen shapes at eight batches and nine contexts: 3 us and the cache at 1 TB/s."""
    batch, context, heads, kv_heads = (
        g.ravel()
        for g in np.meshgrid(2 ** np.arange(8), 4 ** np.arange(9), [8, 16, 32, 64], [1, 2, 4, 8])
    )
    dims = {"batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads}
    dims |= {"head_dim": np.full_like(batch, 128), "window": 0 * batch}
    seconds = 3e-6 + batch * (context + 1) * kv_heads * 2 * 128 * 2 / 1e12
    return samples_of(dims, seconds, np.zeros(len(batch), dtype=np.bool_))


def wasteful(speed: float) -> Samples:
    """Sixteen shapes at 26 row counts, odd ones half as fast again."""
    rows, k, n = (
        g.ravel()
        for g in np.meshgrid([*2 ** np.arange(13), *(1 + 2 ** np.arange(2, 15))], SIZES, SIZES)
    )
    bound = np.maximum(2.0 * rows * k * n / 100e12, 2.0 * (k * n + rows * (k + n)) / 1e12)
    seconds = 3e-6 + bound / speed * np.where(rows % 2 > 0, 1.5, 1.0)
    dims = {"rows": rows, "in_features": k, "out_features": n}
    return samples_of(dims, seconds, np.zeros(len(rows), dtype=np.bool_))
