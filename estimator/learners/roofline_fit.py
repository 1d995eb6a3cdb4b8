"""Fits a roofline to measured times: its parts are linear once each case's side of the ridge is known.

Importing scipy takes a while: only fitting needs this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from servecast.estimator.learners.roofline import FIRST_AND_LAST, FittedRoofline
from servecast.estimator.measurement import Floats

MAX_FIT_ROWS = 4000  # a handful of parameters needs no more; a strided choice keeps every region
ROUNDS = 25  # it settles in ten
LEAST_ERROR = 0.02  # of the logarithm: repeats of one GEMM differ by that much


def fit_roofline(
    features: Floats,
    seconds: Floats,
    side: Sequence[int] = (),
    bounds: Sequence[tuple[int, int]] = (FIRST_AND_LAST,),
) -> FittedRoofline:
    """Least absolute log error, by least squares reweighted and cases reassigned to compute or memory.

    ``seconds`` [cases] are positive; ``side`` are columns that cost time of their own, ``bounds`` pairs of
    columns of FLOPs and bytes of which the better is taken.
    """
    step = max(1, len(seconds) // MAX_FIT_ROWS)
    part, target = np.maximum(features[::step], 0), seconds[::step]
    fits = [_fit(part, target, side, bound) for bound in bounds]
    return min(fits, key=lambda fit: fit[1])[0]


def _fit(
    part: Floats, target: Floats, side: Sequence[int], bound: tuple[int, int]
) -> tuple[FittedRoofline, float]:
    """And its error."""
    per_flop, per_byte = (_rate(target, part[:, column]) for column in bound)
    best = FittedRoofline(float(target.min()), per_flop, per_byte, bound=bound)
    guess, least = best, _error(best, part, target)
    for _ in range(ROUNDS):
        guess = _refit(guess, part, target, side)
        error = _error(guess, part, target)
        if error < least:
            best, least = guess, error
    return best, least


def _refit(
    guess: FittedRoofline, part: Floats, seconds: Floats, side: Sequence[int]
) -> FittedRoofline:
    """Non-negative least squares of the relative error, small errors counted in full."""
    flops, moved = (part[:, column] for column in guess.bound)
    computes = flops * guess.s_per_flop >= moved * guess.s_per_byte
    columns = [np.ones(len(part)), flops * computes, moved * ~computes]
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
        guess.bound,
    )


def _error(roofline: FittedRoofline, part: Floats, seconds: Floats) -> float:
    return float(np.mean(np.abs(np.log(roofline.predict(part) / seconds))))


def _rate(seconds: Floats, amount: Floats) -> float:
    """Seconds per unit at the best-used end of the data; tiny where there is no such work."""
    used = amount > 0
    if not used.any():
        return float(np.finfo(np.float64).tiny)
    return float(np.quantile(seconds[used] / amount[used], 0.05))
