"""Learners of kernel times, by scikit-learn's conventions. Importing this module costs a second: only
fitting needs it, predictions run from the arrays of ``forest.py``.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from servecast.estimator.flatten import flatten, flatten_boosting, mean_of
from servecast.estimator.forest import FlatForest, KernelModel
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import KernelKind, Work
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


class _OverRoofline(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """What learners of the logarithm of time over a fitted roofline share.

    Features [cases, features] hold FLOPs in column 0 and bytes in the last.
    """

    def _trees(self, features: Floats, residual: Floats) -> FlatForest:
        raise NotImplementedError

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
        work = Work(amounts[:, 0], amounts[:, -1])
        roofline = fit_roofline(work, seconds)
        residual = np.log(seconds / roofline.predict(work))
        self.model_ = KernelModel(roofline, self._trees(features, residual))
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803  # scikit-learn's name
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.predict(np.asarray(features))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


class RooflineForest(_OverRoofline):
    """Random forest over a fitted roofline.

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
        The fit as arrays.
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

    def _trees(self, features: Floats, residual: Floats) -> FlatForest:
        drawn = len(residual)  # a count, for scikit-learn warns of shares of small data
        if self.max_samples is not None:
            drawn = max(1, round(self.max_samples * drawn))
        forest = RandomForestRegressor(
            self.n_estimators,
            max_features=self.max_features,
            max_samples=drawn,
            random_state=self.random_state,
        )
        return flatten(forest.fit(features, residual))


class RooflineBoosting(_OverRoofline):
    """Gradient-boosted trees over a fitted roofline.

    Parameters
    ----------
    n_boosted : int
        Trees.
    max_leaf_nodes : int
        Leaves of a tree.
    learning_rate : float
        Share of a tree's correction that is taken.
    random_state : int
        Seed of the trees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays.
    """

    def __init__(
        self,
        n_boosted: int = 300,
        max_leaf_nodes: int = 63,
        learning_rate: float = 0.08,
        random_state: int = 0,
    ) -> None:
        self.n_boosted = n_boosted
        self.max_leaf_nodes = max_leaf_nodes
        self.learning_rate = learning_rate
        self.random_state = random_state

    def _trees(self, features: Floats, residual: Floats) -> FlatForest:
        boosting = HistGradientBoostingRegressor(
            max_iter=self.n_boosted,
            max_leaf_nodes=self.max_leaf_nodes,
            learning_rate=self.learning_rate,
            min_samples_leaf=10,
            early_stopping=False,
            random_state=self.random_state,
        )
        with threadpool_limits(1, "openmp"):  # on a busy machine more threads only spin
            return flatten_boosting(boosting.fit(features, residual))


class RooflineBlend(_OverRoofline):
    """The mean of extremely randomised and of boosted trees over one fitted roofline: they err apart.

    Parameters
    ----------
    n_estimators : int
        Randomised trees.
    n_boosted : int
        Boosted trees.
    random_state : int
        Seed of the trees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays.
    """

    def __init__(self, n_estimators: int = 20, n_boosted: int = 300, random_state: int = 0) -> None:
        self.n_estimators = n_estimators
        self.n_boosted = n_boosted
        self.random_state = random_state

    def _trees(self, features: Floats, residual: Floats) -> FlatForest:
        forest = ExtraTreesRegressor(
            self.n_estimators,
            max_features=0.6,
            min_samples_leaf=2,
            random_state=self.random_state,
        )
        boosting = RooflineBoosting(self.n_boosted, random_state=self.random_state)
        randomised = flatten(forest.fit(features, residual))
        return mean_of(randomised, boosting._trees(features, residual))


def learner_for(kind: KernelKind) -> RooflineBlend | RooflineBoosting:
    """What did best on shapes held out (`benchmarks/estimators.py`): boosting alone for prefill attention,
    the blend for everything else.
    """
    return RooflineBoosting() if kind.kernel == "attention_prefill" else RooflineBlend()
