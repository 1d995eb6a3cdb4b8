"""The error of predicted times, drawn once for a run: a kernel that is slower than predicted is so in every
step of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from servecast.estimator.learners.uncertainty import (
    ANALYTICAL_HALF_WIDTH,
    Z_OF_90,
    Calibration,
)
from servecast.estimator.models import calibrated
from servecast.estimator.noise import ASSUMED
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import ErrorDraw, Predictor
from servecast.estimator.sources import fitting_of
from servecast.estimator.store import Store


def calibrations_of(store: Store, predictor: Predictor) -> dict[KernelKind, Calibration]:
    """Of every kernel that a model answers for; each a handful of fits where the store has none."""
    return {
        kind: calibrated(
            store,
            fitting_of(store, predictor.sku.name, kind, predictor.samples[kind], predictor.sku),
        )
        for kind in predictor.models
    }


def error_draws(
    kinds: tuple[KernelKind, ...],
    calibrations: Mapping[KernelKind, Calibration],
    noise: Mapping[KernelKind, float],
    draw: int,
) -> dict[KernelKind, ErrorDraw]:
    """One error for each kernel and range of its times, from a stream of the kernel's own: the same in every
    program that launches it. ``noise`` is that of measured times.
    """
    errors = {}
    for kind in kinds:
        rng = np.random.default_rng([draw, zlib.crc32(repr(kind).encode())])
        of_datasheet, of_measured = rng.normal(
            0.0, [ANALYTICAL_HALF_WIDTH / Z_OF_90, noise.get(kind, ASSUMED)]
        )
        calibration = calibrations.get(kind)
        of_model = np.zeros(0) if calibration is None else calibration.draw(rng)
        errors[kind] = ErrorDraw(calibration, of_model, float(of_datasheet), float(of_measured))
    return errors
