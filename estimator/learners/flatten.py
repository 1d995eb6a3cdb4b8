"""Fitted scikit-learn trees as the flat arrays of ``forest.py``: scikit-learn, too, lets a left child follow
its parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

from servecast.estimator.learners.forest import LEAF, FlatForest
from servecast.estimator.measurement import Floats


def flatten(forest: RandomForestRegressor | ExtraTreesRegressor) -> FlatForest:
    """The nodes of a fitted forest as arrays, trees one after another."""
    trees = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1].astype(np.int32)
    leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    threshold = _round_down(np.concatenate([tree.threshold for tree in trees]))
    value = np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float32)
    return FlatForest(
        roots=starts,
        feature=np.where(leaf, LEAF, np.concatenate([t.feature for t in trees])).astype(np.int16),
        number=np.where(leaf, value, threshold),
        right=np.concatenate(
            [t.children_right.astype(np.int32) + s for t, s in zip(trees, starts, strict=True)]
        ),
    )


def flatten_boosting(boosting: HistGradientBoostingRegressor) -> FlatForest:
    """Boosted trees as a forest: the mean over trees that are each as many times too large is the sum."""
    trees = [predictor[0].nodes for predictor in boosting._predictors]
    starts = np.cumsum([0, *(len(nodes) for nodes in trees)])[:-1].astype(np.int32)
    nodes = np.concatenate(trees)
    offset = np.repeat(starts, [len(tree) for tree in trees])
    leaf = nodes["is_leaf"].astype(bool)
    baseline = float(np.ravel(boosting._baseline_prediction)[0])
    return FlatForest(
        roots=starts,
        feature=np.where(leaf, LEAF, nodes["feature_idx"]).astype(np.int16),
        number=np.where(
            leaf, nodes["value"] * len(trees) + baseline, nodes["num_threshold"]
        ).astype(np.float32),
        right=(nodes["right"] + offset).astype(np.int32),
    )


def mean_of(forests: Sequence[FlatForest]) -> FlatForest:
    """A forest that predicts the mean of all."""
    return sum_of(forests, [1 / len(forests)] * len(forests))


def sum_of(forests: Sequence[FlatForest], weights: Sequence[float]) -> FlatForest:
    """A forest that predicts the weighted sum of all."""
    trees = sum(len(forest.roots) for forest in forests)
    starts = np.cumsum([0, *(len(forest.feature) for forest in forests)])[:-1].astype(np.int32)
    pairs = list(zip(forests, starts, strict=True))
    share = [np.float32(trees * w / len(f.roots)) for f, w in zip(forests, weights, strict=True)]
    weighted = [
        np.where(f.feature == LEAF, f.number * s, f.number)
        for f, s in zip(forests, share, strict=True)
    ]
    return FlatForest(
        roots=np.concatenate([forest.roots + start for forest, start in pairs]),
        feature=np.concatenate([forest.feature for forest in forests]),
        number=np.concatenate(weighted),
        right=np.concatenate([forest.right + start for forest, start in pairs]),
    )


def _round_down(threshold: Floats) -> Any:
    """Single-precision thresholds that split single-precision features as the double ones do."""
    single = threshold.astype(np.float32)
    above = single.astype(np.float64) > threshold
    return np.where(above, np.nextafter(single, np.float32(-np.inf)), single)
