"""Calibrates a kernel's intervals: fits on folds of shapes, and looks at the shapes left out."""

from __future__ import annotations

import numpy as np

from servecast.estimator.learners.choice import Donors, fit_best
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.side_by_side import side_by_side
from servecast.estimator.learners.splits import Mask, folds_of, shapes_of
from servecast.estimator.learners.uncertainty import Calibration, Misses, calibration_of
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples

FOLDS = 5  # each model sees four fifths of the shapes, nearly as many as the one that answers
USED = 3  # so many of the folds are looked at where rows are many; of few rows, whose fits cost little, all
MANY_ROWS = 6000
# The model that answers has seen all shapes: errors fall with about this power of how many were seen, of the
# public tables by a third from a tenth of the rows to all. Prefill's fall faster: of models that had seen all
# shapes but a fifth (seeds 3 and 4, four GPUs) they were 0.95, 0.90, 0.89 and 0.83 times those of folds at
# the 50th, 80th, 90th and 95th percentile, as 0.8 to this power.
LEARNING = {"attention_prefill": 0.4}
USUAL_LEARNING = 0.15
FRONTIER = 0.85  # rows above this quantile of work are held out to see how far beyond the data errs


def calibrate(
    kind: KernelKind,
    samples: Samples,
    num_sms: int,
    learner: str,
    seed: int = 0,
    donors: Donors = (),
) -> Calibration:
    """Errors of models that had not seen a case's shape, and of one that had seen no work as large."""
    features = feature_matrix(kind, samples.dims, num_sms)
    seconds = samples.seconds
    fold = folds_of(samples, FOLDS, seed)
    used = USED if len(seconds) > MANY_ROWS else FOLDS
    unseen = [fold == number for number in range(used) if 0 < (fold == number).sum() < len(fold)]
    measured, shape = np.concatenate([seconds[out] for out in unseen]), shapes_of(samples)
    large = features[:, -1] >= np.quantile(features[:, -1], FRONTIER)
    if large.all():  # nothing smaller to learn from
        large[:] = False
    *predicted, further = side_by_side(
        lambda out: _predicted(kind, samples, num_sms, (learner, out, donors)), [*unseen, large]
    )
    said = np.concatenate(predicted)
    seen_more = (1 - 1 / FOLDS) ** LEARNING.get(kind.kernel, USUAL_LEARNING)
    misses = seen_more * np.abs(np.log(said / measured))
    inside = Misses(misses, np.concatenate([shape[out] for out in unseen]))
    beyond = Misses(seen_more * np.abs(np.log(further / seconds[large])), shape[large])
    return calibration_of(said, inside, beyond)


def _predicted(
    kind: KernelKind, samples: Samples, num_sms: int, how: tuple[str, Mask, Donors]
) -> Floats:
    """Times of the rows left out, by that learner of the others."""
    learner, left_out, donors = how
    model = fit_best(kind, samples.rows(~left_out), num_sms, learner, donors)
    return model.predict(feature_matrix(kind, samples.rows(left_out).dims, num_sms))
