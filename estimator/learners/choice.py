"""Which learner answers for a kernel of a GPU: the best of several on shapes that it had not seen.

Importing this module loads scikit-learn; only fitting needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from servecast.estimator.learners.borrowing import BorrowedTrees
from servecast.estimator.learners.features import (
    INCREASING,
    bounds_of,
    feature_matrix,
    positions,
    side_of,
)
from servecast.estimator.learners.forest import FlatForest, KernelModel
from servecast.estimator.learners.growers import GROWERS
from servecast.estimator.learners.regressors import (
    KernelLearner,
    MonotoneBoosting,
    RooflineTrees,
)
from servecast.estimator.learners.side_by_side import side_by_side
from servecast.estimator.learners.splits import folds_of, shapes_of, some_shapes
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims, KernelKind
from servecast.estimator.predictor import Samples

MAX_ROWS = 24000  # of a kernel; half as many leave too few neighbours and favour what learns less
FOLDS = 3
USED = 2  # of them: one alone is won by luck, and each costs nearly as much as the fit itself
FEW_ROWS = 2000  # up to so many, trees of few leaves are worth a try
MONOTONE_EFFORT = 0.3  # constrained trees stop learning sooner
MIN_SHAPES = 8  # below, a fold's shapes say nothing of others
STEPPED = ("leafy", "randomised")
BLENDS = {
    "blend": ("randomised", "boosting"),
    "few": ("randomised", "shallow"),
    "detailed": ("logarithmic", "leafy"),
}
STEADY, NEARBY = "steady", "nearby"  # the same trees, the second with what they miss nearby
SWEPT = "swept"  # attention's blend over what FlashAttention's blocks read
DEFAULT = "blend"
UNTRIED_ERROR = 0.2  # what experts of unseen shapes, the worst predicted kernel, err by


def _trees(*members: str) -> Callable[[KernelKind, Dims], KernelLearner]:
    return lambda kind, dims: RooflineTrees(
        members,
        positions(kind, dims, side_of(kind)),
        bounds=bounds_of(kind, dims),
    )


def _nearby(kind: KernelKind, dims: Dims) -> KernelLearner:
    place = positions(kind, dims, ("rows", "in_features", "out_features"))
    return RooflineTrees(STEPPED, positions(kind, dims, side_of(kind)), place)


def _swept(kind: KernelKind, dims: Dims) -> KernelLearner:
    """Over a roofline of the keys that blocks read, which only decodes have, and of the heads they write."""
    swept, moved = positions(kind, dims, ("swept", "bytes"))
    heads = positions(kind, dims, ("batch_heads",))
    return RooflineTrees(BLENDS["detailed"], heads, bounds=((swept, moved),))


def _monotone(kind: KernelKind, dims: Dims) -> KernelLearner:
    return MonotoneBoosting(positions(kind, dims, INCREASING), effort=MONOTONE_EFFORT)


LEARNERS: dict[str, Callable[[KernelKind, Dims], KernelLearner]] = {
    **{member: _trees(member) for member in GROWERS},
    **{blend: _trees(*members) for blend, members in BLENDS.items()},
    STEADY: _trees(*STEPPED),
    NEARBY: _nearby,
    SWEPT: _swept,
    "monotone": _monotone,
}
BORROWED = "borrowed"
Donors = tuple[FlatForest, ...]


def learner_of(name: str, kind: KernelKind, dims: Dims, donors: Donors = ()) -> KernelLearner:
    """Unfitted; ``donors`` are what a borrowing one starts from."""
    if name == BORROWED:
        return BorrowedTrees(donors, positions(kind, dims, side_of(kind)))
    return LEARNERS[name](kind, dims)


@dataclass(frozen=True, slots=True)
class Choice:
    """Mean absolute log errors by learner in cross-validation; empty where there was too little to try."""

    errors: tuple[tuple[str, float], ...] = ()

    @property
    def best(self) -> str:
        return min(self.errors, key=lambda pair: pair[1])[0] if self.errors else DEFAULT

    @property
    def error(self) -> float:
        """Of the best; what a guess may be off by where nothing was tried."""
        return dict(self.errors)[self.best] if self.errors else UNTRIED_ERROR


def _tried(kind: KernelKind, rows: int) -> list[str]:
    """What is worth a try; blends of these cost nothing more. A forest alone never won among many GEMMs."""
    if _many_gemms(kind, rows):
        return ["randomised", "boosting", NEARBY]
    if kind.kernel.startswith("attention") and rows > FEW_ROWS:
        names = ["boosting", "logarithmic", "leafy", "monotone"]
        return [*names, SWEPT] if kind.kernel == "attention_decode" else names
    names = ["forest", "randomised", "boosting"]
    names += ["shallow"] if rows <= FEW_ROWS else []
    return names + (["monotone"] if kind.kernel.startswith("attention") else [])


def _many_gemms(kind: KernelKind, rows: int) -> bool:
    return kind.kernel == "linear" and rows > FEW_ROWS


def choose(
    kind: KernelKind, samples: Samples, num_sms: int, seed: int = 0, donors: Donors = ()
) -> Choice:
    """Every learner's errors on shapes left out, learnt from the others."""
    part = samples.rows(some_shapes(samples, MAX_ROWS, seed))
    if shapes_of(part).max() + 1 < MIN_SHAPES:
        return Choice()
    features = feature_matrix(kind, part.dims, num_sms)
    fold = folds_of(part, FOLDS, seed)
    names = _tried(kind, len(part.seconds)) + ([BORROWED] if donors else [])

    def log_errors(trial: tuple[str, int]) -> dict[str, Floats]:
        name, number = trial
        out = fold == number
        learner = learner_of(name, kind, part.dims, donors)
        model = learner.fit(features[~out], part.seconds[~out]).model_
        models = {name: model}
        if name == NEARBY:
            models[STEADY] = replace(model, nearby=None)
        return {n: np.log(m.predict(features[out]) / part.seconds[out]) for n, m in models.items()}

    trials = [(name, number) for number in range(USED) for name in names]
    parts: dict[str, list[Floats]] = {}
    for found in side_by_side(log_errors, trials):
        for name, each in found.items():
            parts.setdefault(name, []).append(each)
    errors = {name: np.concatenate(each) for name, each in parts.items()}
    for blend, members in BLENDS.items():
        if set(members) <= set(errors):
            errors[blend] = np.asarray(np.mean([errors[member] for member in members], axis=0))
    return Choice(tuple((name, float(np.mean(np.abs(e)))) for name, e in errors.items()))


def fit_best(
    kind: KernelKind, samples: Samples, num_sms: int, name: str, donors: Donors = ()
) -> KernelModel:
    """The learner of that name, fitted to everything."""
    features = feature_matrix(kind, samples.dims, num_sms)
    learner = learner_of(name, kind, samples.dims, donors)
    learner.fit(features, samples.seconds)
    return replace(learner.model_, learner=name)
