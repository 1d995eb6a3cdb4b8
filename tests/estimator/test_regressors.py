"""Learners keep scikit-learn's contract, recover known kernels and predict alike when saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from servecast.estimator.baselines import LinearInterpolation, RawForest, RooflineOnly
from servecast.estimator.flatten import flatten, flatten_boosting, mean_of
from servecast.estimator.forest import KernelModel
from servecast.estimator.physics import Work
from servecast.estimator.regressors import (
    RooflineBlend,
    RooflineBoosting,
    RooflineForest,
    fit_roofline,
)

LEARNERS = [
    RooflineForest(n_estimators=5),
    RooflineBoosting(n_boosted=20),
    RooflineBlend(n_estimators=5, n_boosted=20),
    RooflineOnly(),
    RawForest(),
    LinearInterpolation(),
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
    found = fit_roofline(Work(features[:, 0], features[:, -1]), base)
    assert found.launch_s == pytest.approx(3e-6, rel=0.02)
    assert 1 / found.s_per_flop == pytest.approx(500e12, rel=0.02)
    assert 1 / found.s_per_byte == pytest.approx(2e12, rel=0.02)


def test_the_forest_learns_what_the_roofline_cannot_say() -> None:
    features, seconds, _ = cases()
    unseen, expected, _ = cases(seed=1)
    for learner in (RooflineForest(), RooflineBoosting(), RooflineBlend()):
        error = np.abs(learner.fit(features, seconds).predict(unseen) / expected - 1)
        assert np.median(error) < 0.05


def test_times_must_be_positive() -> None:
    features, seconds, _ = cases(rows=20)
    with pytest.raises(ValueError, match="times must be positive, got 0"):
        RooflineForest().fit(features, seconds * 0)


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


def test_a_blend_is_the_mean_of_its_members() -> None:
    features, seconds, _ = cases()
    one = RooflineForest(n_estimators=3).fit(features, seconds).model_.forest
    other = RooflineBoosting(n_boosted=7).fit(features, seconds).model_.forest
    both = mean_of(one, other).predict(features)
    np.testing.assert_allclose(
        both, (one.predict(features) + other.predict(features)) / 2, rtol=1e-4, atol=1e-6
    )


def test_a_saved_model_predicts_the_same_bits() -> None:
    features, seconds, _ = cases()
    model = RooflineForest().fit(features, seconds).model_
    again = KernelModel.from_bytes(model.to_bytes())
    np.testing.assert_array_equal(again.predict(features), model.predict(features))


def test_no_case_gets_no_prediction() -> None:
    features, seconds, _ = cases(rows=30)
    assert RooflineForest().fit(features, seconds).model_.predict(features[:0]).shape == (0,)


def test_a_plane_in_logarithms_is_interpolated_exactly() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, 8, (200, 2)))
    seconds = 1e-6 * (1 + sizes[:, 0]) ** 0.5 * (1 + sizes[:, 1])
    found = LinearInterpolation().fit(sizes[:150], seconds[:150]).predict(sizes[150:])
    np.testing.assert_allclose(found, seconds[150:], rtol=1e-6)
