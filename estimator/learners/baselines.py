"""What our learners are compared with, as scikit-learn estimators: other tools' ways, physics alone."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from servecast.estimator.learners.regressors import positive, positive_targets
from servecast.estimator.learners.roofline_fit import fit_roofline
from servecast.estimator.measurement import Floats


class RooflineOnly(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """The fitted roofline itself: launch, compute and memory time.

    Attributes
    ----------
    roofline_ : FittedRoofline
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive; X as for the learners."""
        features, seconds = positive(self, X, y)
        self.roofline_ = fit_roofline(features, seconds)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        return self.roofline_.predict(validate_data(self, X, dtype=np.float64, reset=False))

    def __sklearn_tags__(self) -> Any:
        tags = positive_targets(super().__sklearn_tags__())
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
        features, seconds = positive(self, X, y)
        forest = RandomForestRegressor(60, random_state=self.random_state)
        self.forest_ = forest.fit(features, seconds)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(self.forest_.predict(features), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        return positive_targets(super().__sklearn_tags__())


class GridInterpolation(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """Multilinear interpolation of time between the measured values along each axis, one axis after
    another; outside an axis its end counts.

    Measured cases form no full grid: below each value of an axis lie the values of the next that were
    measured with it.

    Attributes
    ----------
    points_ : array [cases, axes]
        The cases, sorted by their columns from the first to the last.
    seconds_ : array [cases]
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Times ``y`` [cases] in seconds, positive; X are the dimensions."""
        features, seconds = positive(self, X, y)
        order = np.lexsort(features.T[::-1])
        self.points_, self.seconds_ = features[order], seconds[order]
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self)
        wanted = validate_data(self, X, dtype=np.float64, reset=False)
        every = np.arange(len(wanted))
        return self._between(wanted, every, slice(0, len(self.seconds_)), 0)

    def _between(self, wanted: Floats, cases: Any, rows: slice, axis: int) -> Floats:
        """Times of those ``cases`` of ``wanted`` within measured ``rows``, from ``axis`` on."""
        if axis == wanted.shape[1]:
            return np.full(len(cases), float(np.median(self.seconds_[rows])))
        column = self.points_[rows, axis]
        values, starts = np.unique(column, return_index=True)
        ends = np.append(starts[1:], len(column)) + rows.start
        at = np.interp(wanted[cases, axis], values, np.arange(len(values)))
        low = np.floor(at).astype(np.int64)
        found = np.zeros(len(cases))
        for offset, weight in ((0, 1 - (at - low)), (1, at - low)):
            for value in np.unique(low[weight > 0]):
                here = np.flatnonzero((low == value) & (weight > 0))
                inner = slice(int(starts[value + offset]) + rows.start, int(ends[value + offset]))
                found[here] += weight[here] * self._between(wanted, cases[here], inner, axis + 1)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = positive_targets(super().__sklearn_tags__())
        tags.regressor_tags.poor_score = True  # scattered cases are no grid
        return tags
