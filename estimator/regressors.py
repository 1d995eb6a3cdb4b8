"""Learners of kernel times, by scikit-learn's conventions. Importing this module costs a second: only
fitting needs it, predictions run from the arrays of ``forest.py``.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from servecast.estimator.forest import FlatForest, KernelModel
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Work
from servecast.estimator.roofline import FittedRoofline

MAX_FIT_ROWS = 2000  # three parameters need no more; a strided choice keeps every region


def fit_roofline(work: Work, seconds: Floats) -> FittedRoofline:
    """Least absolute log error, by Nelder-Mead from a start read off the data.

    ``seconds`` [cases] are positive.
    """
    step = max(1, len(seconds) // MAX_FIT_ROWS)
    part = Work(work.flops[::step], work.num_bytes[::step])
    target = np.log(seconds[::step])

    def loss(parameters: Floats) -> float:
        guess = _roofline(parameters)
        return float(np.mean(np.abs(np.log(guess.predict(part)) - target)))

    start = np.log([seconds.min(), _rate(seconds, work.flops), _rate(seconds, work.num_bytes)])
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 400, "xatol": 1e-3})
    return _roofline(found.x)


def _roofline(logs: Floats) -> FittedRoofline:
    """Bounded, for the search wanders where a parameter does not matter."""
    return FittedRoofline(*(float(p) for p in np.exp(np.clip(logs, -100, 100))))


def _rate(seconds: Floats, amount: Floats) -> float:
    """Seconds per unit at the best-used end of the data; tiny where there is no such work."""
    used = amount > 0
    if not used.any():
        return float(np.finfo(np.float64).tiny)
    return float(np.quantile(seconds[used] / amount[used], 0.05))


class RooflineForest(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """Random forest on the logarithm of time over a fitted roofline.

    Parameters
    ----------
    n_estimators : int
        Trees.
    max_features : float
        Share of the features tried at a split.
    max_samples : float or None
        Share of the rows each tree sees; None draws as many as there are.
    random_state : int
        Seed of the trees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays. Features [cases, features] hold FLOPs in column 0 and bytes in the last.
    """

    def __init__(
        self,
        n_estimators: int = 20,
        max_features: float = 0.4,
        max_samples: float | None = 0.5,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_features = max_features
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive.

        Raises
        ------
        ValueError
            A time is not positive.
        """
        features, seconds = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        seconds = np.asarray(seconds, dtype=np.float64)
        if (seconds <= 0).any():
            raise ValueError(f"times must be positive, got {seconds.min()}")
        amounts = np.maximum(features, 0)
        roofline = fit_roofline(Work(amounts[:, 0], amounts[:, -1]), seconds)
        base = roofline.predict(Work(amounts[:, 0], amounts[:, -1]))
        drawn = len(seconds)  # a count, for scikit-learn warns of shares of small data
        if self.max_samples is not None:
            drawn = max(1, round(self.max_samples * drawn))
        forest = RandomForestRegressor(
            self.n_estimators,
            max_features=self.max_features,
            max_samples=drawn,
            random_state=self.random_state,
        ).fit(features, np.log(seconds / base))
        self.model_ = KernelModel(roofline, flatten(forest))
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803  # scikit-learn's name
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.predict(np.asarray(features))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


def flatten(forest: RandomForestRegressor) -> FlatForest:
    """The nodes of a fitted forest as arrays, trees one after another."""
    trees = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1].astype(np.int32)
    leaves = [tree.children_left < 0 for tree in trees]
    feature = [np.where(leaf, -1, t.feature) for t, leaf in zip(trees, leaves, strict=True)]
    return FlatForest(
        roots=starts,
        feature=np.concatenate(feature).astype(np.int16),
        threshold=_round_down(np.concatenate([tree.threshold for tree in trees])),
        left=np.concatenate([t.children_left + s for t, s in zip(trees, starts, strict=True)]),
        right=np.concatenate([t.children_right + s for t, s in zip(trees, starts, strict=True)]),
        value=np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float32),
    )


def _round_down(threshold: Floats) -> Any:
    """Single-precision thresholds that split single-precision features as the double ones do."""
    single = threshold.astype(np.float32)
    above = single.astype(np.float64) > threshold
    return np.where(above, np.nextafter(single, np.float32(-np.inf)), single)
