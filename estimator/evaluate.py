"""How well learners predict measurements they have not seen: whole shapes are held out, not single rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.hardware import Sku
from servecast.estimator.baselines import LinearInterpolation, RawForest, RooflineOnly
from servecast.estimator.features import feature_matrix
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Predictor, Samples
from servecast.estimator.regressors import (
    RooflineBlend,
    RooflineBoosting,
    RooflineForest,
    learner_for,
)

HELD_OUT = 0.2
SWEPT = frozenset({"rows", "batch", "context", "chunk", "payload_bytes"})
Mask = NDArray[np.bool_]


class Learner(Protocol):
    def fit(self, X: Floats, y: Floats) -> object: ...  # noqa: N803  # scikit-learn's name

    def predict(self, X: Floats) -> Floats: ...  # noqa: N803


@dataclass(frozen=True, slots=True)
class Contender:
    """A learner by name; ``raw`` ones see a case's dimensions, the others its features."""

    name: str
    make: Callable[[], Learner]
    raw: bool = False


CONTENDERS = (
    Contender("blend", RooflineBlend),
    Contender("roofline forest", RooflineForest),
    Contender("roofline boosting", RooflineBoosting),
    Contender("raw forest", RawForest, raw=True),
    Contender("linear interpolation", LinearInterpolation, raw=True),
    Contender("roofline", RooflineOnly),
)


@dataclass(frozen=True, slots=True)
class Score:
    """Absolute percentage errors of a contender on held-out rows."""

    contender: str
    median: float
    p95: float
    train_rows: int
    test_rows: int


def shapes_of(samples: Samples) -> Ints:
    """The number of each row's shape, its dimensions but the swept ones [rows]."""
    fixed = [samples.dims[name] for name in sorted(samples.dims) if name not in SWEPT]
    if not fixed:
        return np.zeros(len(samples.seconds), dtype=np.int64)
    _, number = np.unique(np.stack(fixed, axis=1), axis=0, return_inverse=True)
    return number.reshape(-1).astype(np.int64)


def unseen_shapes(kind: KernelKind, samples: Samples, seed: int) -> Mask:
    """A fifth of the shapes, chosen by ``seed``; of collectives, which have few, a fifth of the sizes."""
    group = samples.dims["payload_bytes"] if kind.kernel in COLLECTIVES else shapes_of(samples)
    groups = np.unique(group)
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(groups)[: max(1, round(HELD_OUT * len(groups)))]
    return np.isin(group, held_out)


def scores(
    kind: KernelKind,
    samples: Samples,
    num_sms: int,
    split: tuple[Mask, Mask],
    contenders: Sequence[Contender] = CONTENDERS,
) -> list[Score]:
    """Every contender's errors on the second rows of ``split``, having seen the first."""
    train, test = split
    features = feature_matrix(kind, samples.dims, num_sms)
    raw = np.stack([samples.dims[n].astype(np.float64) for n in sorted(samples.dims)], axis=1)
    found = []
    for contender in contenders:
        x = raw if contender.raw else features
        learner = contender.make()
        learner.fit(x[train], samples.seconds[train])
        errors = percentage_errors(learner.predict(x[test]), samples.seconds[test])
        found.append(_score(contender.name, errors, train))
    return found


def served_score(kind: KernelKind, samples: Samples, sku: Sku, split: tuple[Mask, Mask]) -> Score:
    """The errors of what a run is answered with: a model, look-ups and interpolation together."""
    train, test = split
    known = samples.rows(train)
    sms = num_sms_of(sku.name)
    models = {}
    if kind.kernel not in COLLECTIVES:
        features = feature_matrix(kind, known.dims, sms)
        models[kind] = learner_for(kind).fit(features, known.seconds).model_
    predictor = Predictor(sku, sms, samples={kind: known}, models=models)
    wanted = samples.rows(test)
    errors = percentage_errors(predictor.predict(kind, wanted.dims).seconds, wanted.seconds)
    return _score("served", errors, train)


def _score(name: str, errors: Floats, train: Mask) -> Score:
    median, p95 = (float(q) for q in np.quantile(errors, (0.5, 0.95)))
    return Score(name, median, p95, int(np.count_nonzero(train)), len(errors))


def percentage_errors(predicted: Floats, measured: Floats) -> Floats:
    return np.asarray(np.abs(predicted / measured - 1) * 100, dtype=np.float64)
