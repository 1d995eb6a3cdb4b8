"""How well learners predict measurements they have not seen: whole shapes are held out, not single rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.estimator.baselines import GridInterpolation, RawForest, RooflineOnly
from servecast.estimator.choice import LEARNERS, choose, fit_best
from servecast.estimator.features import feature_matrix
from servecast.estimator.measurement import Floats
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, Dims, KernelKind
from servecast.estimator.predictor import Predictor, Samples
from servecast.estimator.splits import Mask


class Learner(Protocol):
    def fit(self, X: Floats, y: Floats) -> object: ...  # noqa: N803  # scikit-learn's name

    def predict(self, X: Floats) -> Floats: ...  # noqa: N803


@dataclass(frozen=True, slots=True)
class Contender:
    """A learner by name; ``raw`` ones see a case's dimensions, the others its features."""

    name: str
    make: Callable[[KernelKind, Dims], Learner]
    raw: bool = False


CONTENDERS = (
    Contender("roofline blend", LEARNERS["blend"]),
    Contender("roofline forest", LEARNERS["forest"]),
    Contender("roofline boosting", LEARNERS["boosting"]),
    Contender("raw forest", lambda kind, dims: RawForest(), raw=True),
    Contender("linear interpolation", lambda kind, dims: GridInterpolation(), raw=True),
    Contender("roofline", lambda kind, dims: RooflineOnly()),
)


@dataclass(frozen=True, slots=True)
class Score:
    """Absolute percentage errors of a contender on held-out rows."""

    contender: str
    median: float
    p95: float
    train_rows: int
    test_rows: int


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
        learner = contender.make(kind, samples.dims)
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
        models[kind] = fit_best(kind, known, sms, choose(kind, known, sms).best)
    predictor = Predictor(sku, sms, samples={kind: known}, models=models)
    wanted = samples.rows(test)
    errors = percentage_errors(predictor.predict(kind, wanted.dims).seconds, wanted.seconds)
    return _score("served", errors, train)


def _score(name: str, errors: Floats, train: Mask) -> Score:
    median, p95 = (float(q) for q in np.quantile(errors, (0.5, 0.95)))
    return Score(name, median, p95, int(np.count_nonzero(train)), len(errors))


def percentage_errors(predicted: Floats, measured: Floats) -> Floats:
    return np.asarray(np.abs(predicted / measured - 1) * 100, dtype=np.float64)
