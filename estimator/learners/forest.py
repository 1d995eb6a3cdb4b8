"""Regression trees as flat arrays: predicts with numpy alone and saves without pickle."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.learners.nearby import Nearby
from servecast.estimator.learners.roofline import FittedRoofline
from servecast.estimator.measurement import Floats

LEAF = -1
NEARBY = fields(Nearby)
CASES_AT_ONCE = 256  # their walks through a few hundred trees fit in a core's cache


@dataclass(frozen=True, slots=True, eq=False)
class FlatForest:
    """Nodes of all trees in one row of arrays [nodes]; ``roots`` [trees] index into them.

    A leaf has feature ``LEAF`` and its value in ``number``. Elsewhere a case whose feature is at most
    ``number``, in single precision as in scikit-learn, goes left, to the next node, others to ``right``.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    number: NDArray[np.float32]
    right: NDArray[np.int32]

    def predict(self, features: Floats) -> Floats:
        """Mean over trees [cases] for features [cases, features]."""
        parts = [
            self._predict(features[i : i + CASES_AT_ONCE].astype(np.float32))
            for i in range(0, len(features), CASES_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _predict(self, features: NDArray[np.float32]) -> Floats:
        node = np.tile(self.roots, len(features))
        case = np.repeat(np.arange(len(features)), len(self.roots))
        walking = np.arange(len(node))
        while True:
            feature = self.feature[node[walking]]
            inner = feature != LEAF
            walking = walking[inner]
            if not len(walking):
                leaves = self.number[node].reshape(len(features), len(self.roots))
                return np.asarray(np.mean(leaves, axis=1), dtype=np.float64)
            at = node[walking]
            goes_left = features[case[walking], feature[inner]] <= self.number[at]
            node[walking] = np.where(goes_left, at + 1, self.right[at])


@dataclass(frozen=True, slots=True, eq=False)
class KernelModel:
    """Time of a kernel: a fitted roofline times the exponential of what a forest adds, and of what it misses
    nearby. ``error`` is the mean absolute one of the logarithm on shapes left out, NaN where nobody looked.
    """

    roofline: FittedRoofline
    forest: FlatForest
    learner: str = ""
    error: float = math.nan
    nearby: Nearby | None = None

    def predict(self, features: Floats, share: float = 1.0) -> Floats:
        """Seconds [cases] of ``features`` [cases, features]; ``share`` of what trees add is believed."""
        more = share * self.forest.predict(features)
        if self.nearby is not None:
            more = more + self.nearby.predict(features)
        return np.asarray(self.roofline.predict(features) * np.exp(more), dtype=np.float64)

    def to_bytes(self) -> bytes:
        body = io.BytesIO()
        arrays = {f.name: getattr(self.forest, f.name) for f in fields(FlatForest)}
        roofline = [self.roofline.launch_s, self.roofline.s_per_flop, self.roofline.s_per_byte]
        side = np.array(self.roofline.side, dtype=np.float64).reshape(-1, 2)
        told = {
            "learner": np.array(self.learner),
            "error": np.array(self.error),
            "roofline": np.array(roofline),
            "side": side,
            "bound": np.array(self.roofline.bound),
        }
        if self.nearby is not None:
            told |= {f"near_{f.name}": np.array(getattr(self.nearby, f.name)) for f in NEARBY}
        np.savez(body, allow_pickle=False, **told, **arrays)
        return body.getvalue()

    @staticmethod
    def from_bytes(body: bytes) -> KernelModel:
        with np.load(io.BytesIO(body), allow_pickle=False) as saved:
            forest = FlatForest(**{f.name: saved[f.name] for f in fields(FlatForest)})
            launch_s, s_per_flop, s_per_byte = (float(x) for x in saved["roofline"])
            side = tuple((int(column), float(rate)) for column, rate in saved["side"])
            flops, moved = (int(column) for column in saved["bound"])
            roofline = FittedRoofline(launch_s, s_per_flop, s_per_byte, side, (flops, moved))
            nearby = None
            if "near_place" in saved:
                rows, inputs, outputs = (int(x) for x in saved["near_place"])
                tables = (saved[f"near_{f.name}"] for f in NEARBY[1:])
                nearby = Nearby((rows, inputs, outputs), *tables)
            error = float(saved["error"])
            return KernelModel(roofline, forest, str(saved["learner"]), error, nearby)
