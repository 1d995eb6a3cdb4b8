"""What our learners are compared with, as scikit-learn estimators: other tools' ways, physics alone."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Work
from servecast.estimator.regressors import fit_roofline


class RooflineOnly(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """The fitted roofline itself: launch, compute and memory time.

    Attributes
    ----------
    roofline_ : FittedRoofline
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive; X as for the learners."""
        features, seconds = _positive(self, X, y)
        self.roofline_ = fit_roofline(Work(features[:, 0], features[:, -1]), seconds)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        features = np.maximum(validate_data(self, X, dtype=np.float64, reset=False), 0)
        return self.roofline_.predict(Work(features[:, 0], features[:, -1]))

    def __sklearn_tags__(self) -> Any:
        tags = _positive_targets(super().__sklearn_tags__())
        tags.regressor_tags.poor_score = True  # three parameters fit no data but kernels'
        return tags


class RawForest(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """A random forest on time itself over a case's own dimensions, as Vidur (MLSys 2024) has it.

    Parameters
    ----------
    random_state : int

    Attributes
    ----------
    forest_ : RandomForestRegressor
    """

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Times ``y`` [cases] in seconds, positive; X are the dimensions."""
        features, seconds = _positive(self, X, y)
        forest = RandomForestRegressor(60, random_state=self.random_state)
        self.forest_ = forest.fit(features, seconds)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(self.forest_.predict(features), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        return _positive_targets(super().__sklearn_tags__())


class LinearInterpolation(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """A plane through the nearest measured cases, in logarithms of dimensions and time.

    Measured cases form no full grid, so the cell around a case is its nearest neighbours.

    Parameters
    ----------
    n_neighbors : int

    Attributes
    ----------
    neighbors_ : NearestNeighbors
    """

    def __init__(self, n_neighbors: int = 8) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Times ``y`` [cases] in seconds, positive; X are the dimensions."""
        features, seconds = _positive(self, X, y)
        self.points_, self.logs_ = np.log1p(features), np.log(seconds)
        count = min(self.n_neighbors, len(seconds))
        self.neighbors_ = NearestNeighbors(n_neighbors=count).fit(self.points_)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        wanted = np.log1p(np.maximum(validate_data(self, X, dtype=np.float64, reset=False), 0))
        near = self.neighbors_.kneighbors(wanted, return_distance=False)
        offsets = self.points_[near] - wanted[:, None, :]
        design = np.concatenate([np.ones((*near.shape, 1)), offsets], axis=2)
        planes = np.linalg.pinv(design) @ self.logs_[near][:, :, None]
        low, high = self.logs_[near].min(axis=1), self.logs_[near].max(axis=1)
        return np.asarray(np.exp(np.clip(planes[:, 0, 0], low - 1, high + 1)), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        return _positive_targets(super().__sklearn_tags__())


def _positive(estimator: BaseEstimator, X: Any, y: Any) -> tuple[Floats, Floats]:  # noqa: N803
    features, seconds = validate_data(estimator, X, y, dtype=np.float64, y_numeric=True)
    if (seconds <= 0).any():
        raise ValueError(f"times must be positive, got {seconds.min()}")
    return np.maximum(features, 0), np.asarray(seconds, dtype=np.float64)


def _positive_targets(tags: Any) -> Any:
    tags.target_tags.positive_only = True
    return tags
