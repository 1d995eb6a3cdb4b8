"""How well learners predict measurements they have not seen: whole shapes are held out, not single rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.estimator.learners.baselines import GridInterpolation, RawForest, RooflineOnly
from servecast.estimator.learners.choice import LEARNERS, Donors, choose, fit_best
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.splits import Mask
from servecast.estimator.measurement import Floats
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, Dims, KernelKind
from servecast.estimator.predictor import Predictor, Samples


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


def scores(
    kind: KernelKind,
    samples: Samples,
    num_sms: int,
    split: tuple[Mask, Mask],
    contenders: Sequence[Contender] = CONTENDERS,
) -> list[Score]:
    """Every contender's errors on the second rows of ``split``, having seen the first."""
    measured = samples.seconds[split[1]]
    return [
        score_of(x.name, predicted_by(x, kind, samples, num_sms, split), measured)
        for x in contenders
    ]


def predicted_by(
    contender: Contender,
    kind: KernelKind,
    samples: Samples,
    num_sms: int,
    split: tuple[Mask, Mask],
) -> Floats:
    """Seconds of the second rows of ``split``, from the first."""
    train, test = split
    if contender.raw:
        columns = [samples.dims[n].astype(np.float64) for n in sorted(samples.dims)]
        seen = np.stack(columns, axis=1)
    else:
        seen = feature_matrix(kind, samples.dims, num_sms)
    learner = contender.make(kind, samples.dims)
    learner.fit(seen[train], samples.seconds[train])
    return learner.predict(seen[test])


def served(
    kind: KernelKind,
    samples: Samples,
    sku: Sku,
    split: tuple[Mask, Mask],
    learner: str | None = None,
    donors: Donors = (),
) -> Floats:
    """Seconds that a run is answered with: a model, look-ups and interpolation together. Without a
    ``learner`` the rows to learn from choose one, with ``donors`` one that borrows from them among others.
    """
    train, test = split
    known = samples.rows(train)
    sms = num_sms_of(sku.name)
    models = {}
    if kind.kernel not in COLLECTIVES:
        best = learner or choose(kind, known, sms, donors=donors).best
        models[kind] = fit_best(kind, known, sms, best, donors)
    predictor = Predictor(sku, sms, samples={kind: known}, models=models)
    return predictor.predict(kind, samples.rows(test).dims).seconds


def score_of(contender: str, predicted: Floats, measured: Floats) -> Score:
    errors = percentage_errors(predicted, measured)
    median, p95 = (float(q) for q in np.quantile(errors, (0.5, 0.95)))
    return Score(contender, median, p95)


def percentage_errors(predicted: Floats, measured: Floats) -> Floats:
    return np.asarray(np.abs(predicted / measured - 1) * 100, dtype=np.float64)
