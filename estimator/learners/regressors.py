"""Learners of kernel times, by scikit-learn's conventions. Importing this module costs a second: only
fitting needs it, predictions run from the arrays of ``forest.py``.

Features [cases, features] hold FLOPs in column 0 and bytes in the last; times [cases] are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from servecast.estimator.learners.flatten import flatten, flatten_boosting, mean_of
from servecast.estimator.learners.forest import FlatForest, KernelModel
from servecast.estimator.learners.nearby import nearby_of
from servecast.estimator.learners.roofline import FIRST_AND_LAST, FittedRoofline
from servecast.estimator.learners.roofline_fit import fit_roofline
from servecast.estimator.measurement import Floats

TREES = 20
BOOSTED = 300
LEARNING_RATE = 0.08
LEAST = 1e-3  # logarithms of features begin here: counts are 1 or more, shares of a wave are larger


@dataclass(frozen=True, slots=True)
class Growth:
    """How trees grow: the seed, the share of the usual number of them, and what each boosted one corrects."""

    seed: int = 0
    effort: float = 1.0
    rate: float = LEARNING_RATE


Trees: TypeAlias = RandomForestRegressor | ExtraTreesRegressor | HistGradientBoostingRegressor
Grower = Callable[[Growth, int], Trees]
"""Unfitted trees for so many rows."""


def random_forest(growth: Growth, rows: int) -> RandomForestRegressor:
    """Each tree sees half of the rows, by count, for scikit-learn warns of shares of small data."""
    return RandomForestRegressor(
        max(1, round(TREES * growth.effort)),
        max_features=0.4,
        max_samples=max(1, rows // 2),
        random_state=growth.seed,
    )


def randomised_trees(growth: Growth, rows: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(
        max(1, round(TREES * growth.effort)),
        max_features=0.6,
        min_samples_leaf=2,
        random_state=growth.seed,
    )


def logarithmic_trees(growth: Growth, rows: int) -> ExtraTreesRegressor:
    """To be fitted to logarithms: they cut at random within a feature's range, which spans decades, so that
    of the features themselves nearly every cut falls among the largest.
    """
    return randomised_trees(growth, rows).set_params(max_features=1.0)


def boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=max(1, round(BOOSTED * growth.effort)),
        max_leaf_nodes=63,
        learning_rate=growth.rate,
        min_samples_leaf=10,
        max_features=0.5,
        early_stopping=False,
        random_state=growth.seed,
    )


def patient_boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    """More of them, each correcting less: for many rows, at as much more cost."""
    return boosted_trees(Growth(growth.seed, 4 / 3 * growth.effort, 0.75 * growth.rate), rows)


def leafy_boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    """Fewer of twice the leaves, for tables with a step at nearly every point of their axes: attention's."""
    fewer = Growth(growth.seed, 0.6 * growth.effort, 1.4 * growth.rate)
    return boosted_trees(fewer, rows).set_params(max_leaf_nodes=127)


def shallow_boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    """For few rows: trees of few leaves, which may hold few rows."""
    return HistGradientBoostingRegressor(
        max_iter=max(1, round(BOOSTED * growth.effort / 2)),
        max_leaf_nodes=8,
        learning_rate=0.08,
        min_samples_leaf=3,
        max_features=0.5,
        early_stopping=False,
        random_state=growth.seed,
    )


GROWERS: dict[str, Grower] = {
    "forest": random_forest,
    "randomised": randomised_trees,
    "logarithmic": logarithmic_trees,
    "boosting": boosted_trees,
    "leafy": leafy_boosted_trees,
    "patient": patient_boosted_trees,
    "shallow": shallow_boosted_trees,
}


def grown(name: str, features: Floats, residual: Floats, growth: Growth) -> Trees:
    """One of GROWERS, fitted; on a busy machine more threads than one only spin."""
    trees = GROWERS[name](growth, len(residual))
    if name == "logarithmic":
        return _cut_at_exponentials(trees.fit(np.log(np.maximum(features, LEAST)), residual))
    with threadpool_limits(1, "openmp"):
        return trees.fit(features, residual)


def _cut_at_exponentials(trees: ExtraTreesRegressor) -> ExtraTreesRegressor:
    """Trees that were fitted to logarithms, for the features themselves: the cuts are the same."""
    for tree in trees.estimators_:
        tree.tree_.threshold[:] = np.exp(tree.tree_.threshold)
    return trees


def flat(trees: Trees) -> FlatForest:
    boosted = isinstance(trees, HistGradientBoostingRegressor)
    return flatten_boosting(trees) if boosted else flatten(trees)


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
