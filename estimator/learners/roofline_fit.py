"""Fits a roofline to measured times: its parts are linear once each case's side of the ridge is known.

Importing scipy takes a while: only fitting needs this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from servecast.estimator.learners.roofline import FittedRoofline
from servecast.estimator.measurement import Floats

MAX_FIT_ROWS = 4000  # a handful of parameters needs no more; a strided choice keeps every region
ROUNDS = 25  # it settles in ten
LEAST_ERROR = 0.02  # of the logarithm: repeats of one GEMM differ by that much


def fit_roofline(features: Floats, seconds: Floats, side: Sequence[int] = ()) -> FittedRoofline:
    """Least absolute log error, by least squares reweighted and cases reassigned to compute or memory.

    ``seconds`` [cases] are positive; ``side`` are columns that cost time of their own.
    """
    step = max(1, len(seconds) // MAX_FIT_ROWS)
    part, target = np.maximum(features[::step], 0), seconds[::step]
    best = FittedRoofline(
        float(target.min()), _rate(target, part[:, 0]), _rate(target, part[:, -1])
    )
    guess, least = best, _error(best, part, target)
    for _ in range(ROUNDS):
        guess = _refit(guess, part, target, side)
        error = _error(guess, part, target)
        if error < least:
            best, least = guess, error
    return best


def _refit(
    guess: FittedRoofline, part: Floats, seconds: Floats, side: Sequence[int]
) -> FittedRoofline:
    """Non-negative least squares of the relative error, small errors counted in full."""
    computes = part[:, 0] * guess.s_per_flop >= part[:, -1] * guess.s_per_byte
    columns = [np.ones(len(part)), part[:, 0] * computes, part[:, -1] * ~computes]
    columns += [part[:, column] for column in side]
    scales = np.array([float(np.mean(column)) or 1.0 for column in columns])
    thought = guess.predict(part)
    off = np.abs(np.log(thought / seconds))
    weights = 1 / np.sqrt(seconds * thought * np.maximum(off, LEAST_ERROR))
    scaled = np.stack(columns, axis=1) / scales
    unit = float(np.median(seconds))
    found = unit * nnls(scaled * weights[:, None] * unit, seconds * weights)[0] / scales
    launch_s = float(found[0]) or guess.launch_s * LEAST_ERROR  # a time of zero has no logarithm
    return FittedRoofline(
        launch_s,
        float(found[1]) or guess.s_per_flop,
        float(found[2]) or guess.s_per_byte,
        tuple((column, float(rate)) for column, rate in zip(side, found[3:], strict=True)),
    )


def _error(roofline: FittedRoofline, part: Floats, seconds: Floats) -> float:
    return float(np.mean(np.abs(np.log(roofline.predict(part) / seconds))))


def _rate(seconds: Floats, amount: Floats) -> float:
    """Seconds per unit at the best-used end of the data; tiny where there is no such work."""
    used = amount > 0
    if not used.any():
        return float(np.finfo(np.float64).tiny)
    return float(np.quantile(seconds[used] / amount[used], 0.05))
