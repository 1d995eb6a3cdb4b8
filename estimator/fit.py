"""Fits the learner of each kernel that a store has samples of. Needs scikit-learn; predictions do not."""

from __future__ import annotations

from servecast.estimator.features import feature_matrix
from servecast.estimator.forest import KernelModel
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples
from servecast.estimator.regressors import RooflineForest

MIN_SAMPLES = 20  # below, a forest knows nothing that the datasheet does not


def fit_model(kind: KernelKind, samples: Samples, num_sms: int) -> KernelModel:
    features = feature_matrix(kind, samples.dims, num_sms)
    return RooflineForest().fit(features, samples.seconds).model_
