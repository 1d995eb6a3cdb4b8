"""The trees that learners grow, by name and share of effort, and as the flat arrays of ``forest.py``.

Importing this module loads scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from threadpoolctl import threadpool_limits

from servecast.estimator.learners.flatten import flatten, flatten_boosting
from servecast.estimator.learners.forest import FlatForest
from servecast.estimator.measurement import Floats

TREES = 20
BOOSTED = 300
LEARNING_RATE = 0.08
MANY_ROWS = 6000
# Boosted trees of many rows are fewer, each correcting more by as much: a quarter cheaper, and on five
# tables of three GPUs 0.02 to 0.07 points worse at the median.
FEWER = 0.75
LEAFY = 0.6  # of the usual number of trees, which have twice the leaves
LOGARITHMIC = 0.6  # of randomised trees of many rows: attention's blend loses 0.02 points by it
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
    if rows > MANY_ROWS:
        growth = Growth(growth.seed, LOGARITHMIC * growth.effort)
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


def usual_boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    if rows > MANY_ROWS:
        growth = Growth(growth.seed, FEWER * growth.effort, growth.rate / FEWER)
    return boosted_trees(growth, rows)


def leafy_boosted_trees(growth: Growth, rows: int) -> HistGradientBoostingRegressor:
    """Fewer of twice the leaves, for tables with a step at nearly every point of their axes: attention's, and
    those of GEMMs.
    """
    share = LEAFY * (FEWER if rows > MANY_ROWS else 1.0)
    fewer = Growth(growth.seed, share * growth.effort, 0.84 / share * growth.rate)
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
    "boosting": usual_boosted_trees,
    "leafy": leafy_boosted_trees,
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
