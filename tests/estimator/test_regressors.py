"""Learners keep scikit-learn's contract, recover known kernels and predict alike when saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from servecast.estimator.learners.baselines import GridInterpolation, RawForest, RooflineOnly
from servecast.estimator.learners.borrowing import BorrowedTrees
from servecast.estimator.learners.flatten import flatten, flatten_boosting, mean_of
from servecast.estimator.learners.forest import KernelModel
from servecast.estimator.learners.growers import (
    BOOSTED,
    FEWER,
    GROWERS,
    LEARNING_RATE,
    MANY_ROWS,
    Growth,
    flat,
    grown,
)
from servecast.estimator.learners.nearby import INPUTS_OCTAVES, PRIOR, nearby_of
from servecast.estimator.learners.regressors import MonotoneBoosting, RooflineTrees
from servecast.estimator.learners.roofline_fit import fit_roofline

LEARNERS = [
    *(RooflineTrees((member,), effort=0.1) for member in GROWERS),
    RooflineTrees(("randomised", "boosting"), side=(0,), effort=0.1),
    RooflineTrees(("randomised",), place=(0, -1, -1), effort=0.1),
    MonotoneBoosting(effort=0.1),
    BorrowedTrees(effort=0.1),
    RooflineOnly(),
    RawForest(),
    GridInterpolation(),
]


@parametrize_with_checks(LEARNERS)  # type: ignore[untyped-decorator]
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def cases(seed: int = 0, rows: int = 400) -> Any:
    """FLOPs, an aligned-or-not flag, bytes, and the times of a kernel that is 1.5x slower unaligned."""
    rng = np.random.default_rng(seed)
    flops, moved = np.exp(rng.uniform(np.log([1e8, 1e5]), np.log([1e13, 1e10]), (rows, 2))).T
    odd = rng.integers(0, 2, rows)
    base = 3e-6 + np.maximum(flops / 500e12, moved / 2e12)
    return np.stack([flops, odd, moved], axis=1), base * np.where(odd, 1.5, 1.0), base


def test_a_known_roofline_is_recovered() -> None:
    features, _, base = cases()
    found = fit_roofline(features, base)
    assert found.launch_s == pytest.approx(3e-6, rel=0.02)
    assert 1 / found.s_per_flop == pytest.approx(500e12, rel=0.02)
    assert 1 / found.s_per_byte == pytest.approx(2e12, rel=0.02)


def test_what_costs_time_beside_the_roofline_is_told_apart() -> None:
    features, _, base = cases()
    rows = np.exp(np.random.default_rng(2).uniform(0, 10, len(base)))
    beside = np.insert(features, 2, rows, axis=1)
    found = fit_roofline(beside, base + 4e-9 * rows, side=(2,))
    assert found.side == ((2, pytest.approx(4e-9, rel=0.02)),)
    assert found.launch_s == pytest.approx(3e-6, rel=0.02)


def test_of_two_pairs_of_flops_and_bytes_the_one_that_tells_times_is_taken_and_saved() -> None:
    """As of experts, whose rows some tables spread evenly and others route."""
    features, _, base = cases()
    routed = np.insert(
        features, [1, 1], np.random.default_rng(3).uniform(1, 9, (len(base), 2)), axis=1
    )
    pairs = ((1, 2), (0, -1))
    model = RooflineTrees(("forest",), bounds=pairs).fit(routed, base).model_
    assert model.roofline.bound == (0, -1)
    assert 1 / model.roofline.s_per_byte == pytest.approx(2e12, rel=0.02)
    swapped = np.roll(routed, 2, axis=1)
    other = RooflineTrees(("forest",), bounds=((2, 1), (0, -1))).fit(swapped, base).model_
    assert other.roofline.bound == (2, 1)
    again = KernelModel.from_bytes(other.to_bytes())
    assert again.predict(swapped).tolist() == other.predict(swapped).tolist()


def test_of_many_rows_boosting_grows_fewer_trees_that_each_correct_more() -> None:
    few, many = (GROWERS["boosting"](Growth(), rows) for rows in (MANY_ROWS, MANY_ROWS + 1))
    assert many.max_iter == FEWER * few.max_iter
    assert many.learning_rate == pytest.approx(LEARNING_RATE / FEWER)
    leafy = GROWERS["leafy"](Growth(), MANY_ROWS + 1)
    assert leafy.max_iter * leafy.learning_rate == pytest.approx(0.84 * BOOSTED * LEARNING_RATE)


def test_of_many_rows_fewer_logarithmic_trees_grow() -> None:
    few, many = (GROWERS["logarithmic"](Growth(), rows) for rows in (MANY_ROWS, MANY_ROWS + 1))
    assert (few.n_estimators, many.n_estimators) == (20, 12)


def test_the_forest_learns_what_the_roofline_cannot_say() -> None:
    features, seconds, _ = cases()
    unseen, expected, _ = cases(seed=1)
    for member in GROWERS:
        found = RooflineTrees((member,)).fit(features, seconds).predict(unseen)
        assert np.median(np.abs(found / expected - 1)) < 0.05


def test_logarithmic_trees_cut_alike_whatever_power_of_a_feature_they_see() -> None:
    """Trees that cut at random within a range tell 2 from 4 no more where another case has 131,072."""
    rng = np.random.default_rng(0)
    octave = rng.integers(0, 18, 2000)
    seconds = np.where(octave % 2 > 0, 1.1, 1.0)
    plain, cubed = 2.0 ** octave[:, None], 8.0 ** octave[:, None]
    ours = grown("logarithmic", plain, np.log(seconds), Growth())
    theirs = grown("logarithmic", cubed, np.log(seconds), Growth())
    assert ours.predict(plain) == pytest.approx(np.log(seconds))
    assert theirs.predict(cubed) == pytest.approx(ours.predict(plain))
    assert flat(ours).predict(plain) == pytest.approx(ours.predict(plain), abs=1e-6)


def test_times_must_be_positive() -> None:
    features, seconds, _ = cases(rows=20)
    with pytest.raises(ValueError, match="times must be positive, got 0"):
        RooflineTrees().fit(features, seconds * 0)


def test_flat_trees_predict_what_scikit_learn_predicts() -> None:
    features, seconds, _ = cases()
    forest = RandomForestRegressor(7, random_state=0).fit(features, np.log(seconds))
    unseen = cases(seed=1, rows=3000)[0]
    np.testing.assert_allclose(flatten(forest).predict(unseen), forest.predict(unseen), rtol=1e-6)


def test_flat_boosted_trees_predict_what_scikit_learn_predicts() -> None:
    features, seconds, _ = cases()
    boosting = HistGradientBoostingRegressor(max_iter=30).fit(features, np.log(seconds))
    unseen = cases(seed=1, rows=3000)[0]
    np.testing.assert_allclose(
        flatten_boosting(boosting).predict(unseen), boosting.predict(unseen), rtol=1e-5
    )


def test_members_predict_their_mean() -> None:
    features, seconds, _ = cases()
    names = ("forest", "boosting")
    one, other = (RooflineTrees((n,)).fit(features, seconds).model_.forest for n in names)
    both = mean_of([one, other]).predict(features)
    np.testing.assert_allclose(
        both, (one.predict(features) + other.predict(features)) / 2, rtol=1e-4, atol=1e-6
    )


def test_monotone_boosting_never_falls_as_work_grows() -> None:
    """Noise alone would make unconstrained trees fall somewhere along the line."""
    features, seconds, _ = cases()
    noisy = seconds * np.exp(np.random.default_rng(3).normal(0, 0.3, len(seconds)))
    line = np.repeat(features[:1], 300, axis=0)
    line[:, 0] = np.geomspace(1e8, 1e13, 300)
    assert (np.diff(MonotoneBoosting().fit(features, noisy).predict(line)) >= 0).all()
    assert (np.diff(RooflineTrees(("boosting",)).fit(features, noisy).predict(line)) < 0).any()


def test_a_saved_model_predicts_the_same_bits() -> None:
    features, seconds, _ = cases()
    model = RooflineTrees(side=(1,)).fit(features, seconds).model_
    again = KernelModel.from_bytes(model.to_bytes())
    np.testing.assert_array_equal(again.predict(features), model.predict(features))


def test_no_case_gets_no_prediction() -> None:
    features, seconds, _ = cases(rows=30)
    assert RooflineTrees().fit(features, seconds).model_.predict(features[:0]).shape == (0,)


def test_a_multilinear_law_is_interpolated_exactly_on_a_grid() -> None:
    axes = np.array([1.0, 2.0, 5.0, 9.0]), np.array([1.0, 10.0, 20.0])
    x, y = (g.ravel() for g in np.meshgrid(*axes, indexing="ij"))
    grid = GridInterpolation().fit(np.stack([x, y], axis=1), 3 + x + 2 * y + x * y)
    inside = np.random.default_rng(0).uniform(1, 9, (50, 2))
    a, b = inside.T
    np.testing.assert_allclose(grid.predict(inside), 3 + a + 2 * b + a * b)
    assert grid.predict([[100.0, 1.0]])[0] == grid.predict([[9.0, 1.0]])[0]


def test_below_each_value_lie_the_values_measured_with_it() -> None:
    """At 1 the second axis ends at 10, at 2 it goes on to 20: a case between takes half of both."""
    points = np.array([[1, 0], [1, 10], [2, 0], [2, 20]], dtype=float)
    grid = GridInterpolation().fit(points, np.array([10.0, 20.0, 30.0, 50.0]))
    assert grid.predict([[1.5, 20.0]])[0] == (20 + 50) / 2


def test_what_is_missed_at_a_matrix_is_expected_at_its_neighbours() -> None:
    """10 % at both measured matrices of 1,024 inputs, nothing at one of 65,536; half way up in rows half."""
    rows, inputs = np.array([1.0, 4.0] * 3), np.repeat([1024.0, 1024.0 * 2**0.2, 65536.0], 2)
    features = np.stack([rows, inputs, np.full(6, 4096.0)], axis=1)
    missed = np.where(rows > 1, 0.1, 0.0) * (inputs < 65536)
    near = nearby_of(features, (0, 1, 2), missed)
    wanted = np.array([[4.0, 1024, 4096], [2.0, 1024, 4096], [4.0, 65536, 4096], [4.0, 1024, 64]])
    both = 1 + np.exp(-((0.2 / INPUTS_OCTAVES) ** 2) / 2)
    expected = 0.1 * both / (both + PRIOR)
    assert near.predict(wanted) == pytest.approx([expected, expected / 2, 0, 0], abs=1e-6)


def test_a_model_with_neighbours_is_saved_whole() -> None:
    features, seconds, _ = cases()
    model = (
        RooflineTrees(("randomised",), place=(0, 1, 2), effort=0.2).fit(features, seconds).model_
    )
    again = KernelModel.from_bytes(model.to_bytes())
    assert model.nearby is not None
    np.testing.assert_array_equal(again.predict(features), model.predict(features))
