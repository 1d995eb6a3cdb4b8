"""Learners of kernel times, by scikit-learn's conventions. Importing this module costs a second: only
fitting needs it, predictions run from the arrays of ``forest.py``.

Features [cases, features] hold FLOPs in column 0 and bytes in the last; times [cases] are seconds.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from servecast.estimator.learners.flatten import mean_of
from servecast.estimator.learners.forest import KernelModel
from servecast.estimator.learners.growers import Growth, boosted_trees, flat, grown
from servecast.estimator.learners.nearby import nearby_of
from servecast.estimator.learners.roofline import FIRST_AND_LAST, FittedRoofline
from servecast.estimator.learners.roofline_fit import fit_roofline
from servecast.estimator.measurement import Floats


class KernelLearner(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # untyped library
    """What learners of positive times share."""

    model_: KernelModel

    def predict(self, X: Any) -> Floats:  # noqa: N803  # scikit-learn's name
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.predict(np.asarray(features))

    def __sklearn_tags__(self) -> Any:
        return positive_targets(super().__sklearn_tags__())


class RooflineTrees(KernelLearner):
    """Trees on the logarithm of time over a fitted roofline; the mean of several kinds errs less than each.

    Parameters
    ----------
    members : tuple of str
        Names of GROWERS.
    side : tuple of int
        Columns that cost time beside the roofline.
    place : tuple of int
        The columns of a GEMM's rows, inputs and outputs, where what the trees miss at nearby matrices is
        to be added.
    bounds : tuple of pairs of int
        The columns of FLOPs and bytes; of several pairs that which fits better.
    effort : float
        Share of the usual number of trees.
    random_state : int
        Seed of the trees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays.
    """

    def __init__(
        self,
        members: tuple[str, ...] = ("forest",),
        side: tuple[int, ...] = (),
        place: tuple[int, ...] = (),
        bounds: tuple[tuple[int, int], ...] = (FIRST_AND_LAST,),
        effort: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.side = side
        self.place = place
        self.bounds = bounds
        self.effort = effort
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive.

        Raises
        ------
        ValueError
            A time is not positive.
        """
        features, roofline, residual = over_roofline(self, X, y, self.side, self.bounds)
        growth = Growth(self.random_state, self.effort)
        trees = [grown(name, features, residual, growth) for name in self.members]
        forest = mean_of([flat(each) for each in trees])
        nearby = None
        if self.place:
            with threadpool_limits(1, "openmp"):  # a second thread spins longer than it works
                told = np.mean([each.predict(features) for each in trees], axis=0)
            nearby = nearby_of(features, self.place, residual - told)
        self.model_ = KernelModel(roofline, forest, "+".join(self.members), nearby=nearby)
        return self


class MonotoneBoosting(KernelLearner):
    """Boosted trees on the logarithm of time itself that never falls as any feature it reads grows.

    Not over a roofline: a product with one would not keep the promise.

    Parameters
    ----------
    increasing : tuple of int
        The columns it reads; physics says that time grows with each.
    effort : float
        Share of the usual number of trees.
    random_state : int
        Seed of the trees.

    Attributes
    ----------
    model_ : KernelModel
        The fit as arrays.
    """

    def __init__(
        self, increasing: tuple[int, ...] = (0, -1), effort: float = 1.0, random_state: int = 0
    ) -> None:
        self.increasing = increasing
        self.effort = effort
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Times ``y`` [cases] in seconds, positive.

        Raises
        ------
        ValueError
            A time is not positive.
        """
        features, seconds = positive(self, X, y)
        read = np.zeros_like(features)  # no tree splits on a column without values
        columns = np.array(self.increasing)
        read[:, columns] = features[:, columns]
        middle = float(np.exp(np.mean(np.log(seconds))))
        growth = Growth(self.random_state, self.effort)
        trees = boosted_trees(growth, len(seconds))
        trees.set_params(monotonic_cst=[1] * features.shape[1])
        with threadpool_limits(1, "openmp"):
            trees.fit(read, np.log(seconds / middle))
        self.model_ = KernelModel(FittedRoofline(middle, 0.0, 0.0), flat(trees), "monotone")
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it reads two columns unless told of more
        return tags


def positive(estimator: BaseEstimator, X: Any, y: Any) -> tuple[Floats, Floats]:  # noqa: N803
    """Checked features and times.

    Raises
    ------
    ValueError
        A time is not positive.
    """
    features, seconds = validate_data(estimator, X, y, dtype=np.float64, y_numeric=True)
    if (seconds <= 0).any():
        raise ValueError(f"times must be positive, got {seconds.min()}")
    return features, np.asarray(seconds, dtype=np.float64)


def over_roofline(
    estimator: BaseEstimator,
    X: Any,  # noqa: N803
    y: Any,
    side: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...] = (FIRST_AND_LAST,),
) -> tuple[Floats, FittedRoofline, Floats]:
    """Features, a roofline fitted to them, and the logarithm of each time over it.

    Raises
    ------
    ValueError
        A time is not positive.
    """
    features, seconds = positive(estimator, X, y)
    roofline = fit_roofline(features, seconds, side, bounds)
    return features, roofline, np.log(seconds / roofline.predict(features))


def positive_targets(tags: Any) -> Any:
    tags.target_tags.positive_only = True
    return tags
