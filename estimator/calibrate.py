"""Calibrates a kernel's intervals: fits on folds of shapes, and looks at the shapes left out."""

from __future__ import annotations

import numpy as np

from servecast.estimator.evaluate import Learner, Mask, shapes_of
from servecast.estimator.features import feature_matrix
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples
from servecast.estimator.regressors import learner_for
from servecast.estimator.uncertainty import Calibration, calibration_of

FOLDS = 3
FRONTIER = 0.85  # rows above this quantile of work are held out to see how far beyond the data errs


def calibrate(kind: KernelKind, samples: Samples, num_sms: int, seed: int = 0) -> Calibration:
    """Errors of models that had not seen a case's shape, and of one that had seen no work as large."""
    features = feature_matrix(kind, samples.dims, num_sms)
    seconds = samples.seconds
    fold = _folds(samples, seed)
    predicted = np.empty_like(seconds)
    for number in range(FOLDS):
        left_out = fold == number
        predicted[left_out] = _predicted(kind, features, seconds, left_out)
    large = features[:, -1] >= np.quantile(features[:, -1], FRONTIER)
    beyond = np.abs(np.log(_predicted(kind, features, seconds, large) / seconds[large]))
    return calibration_of(predicted, seconds, beyond)


def _folds(samples: Samples, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    shape = shapes_of(samples)
    rng = np.random.default_rng(seed)
    return rng.permutation(int(shape.max()) + 1)[shape] % FOLDS


def _predicted(kind: KernelKind, features: Floats, seconds: Floats, left_out: Mask) -> Floats:
    learner: Learner = learner_for(kind)
    learner.fit(features[~left_out], seconds[~left_out])
    return learner.predict(features[left_out])
