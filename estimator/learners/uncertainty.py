"""How far predictions are off: intervals calibrated on shapes that the model had not seen.

Split-conformal (Vovk et al. 2005; cross-conformal over folds of whole shapes), one class per kernel, per
range of predicted time, and apart for cases outside the data. Rows of one shape err alike, so that shapes
are what is counted, each once (hierarchical conformal prediction, Lee et al. 2023). Half-widths are of the
logarithm of time: an interval of half-width q is [t exp(-q), t exp(q)].
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from servecast.estimator.measurement import Floats, Ints

LEVELS = (0.5, 0.8, 0.9, 0.95)
MOST_CLASSES, SHAPES_A_CLASS = 5, 20  # of predicted time; fewer shapes say nothing of 95 %
ROUNDING = 1e-9
# What a datasheet time may be off by where nothing was measured, as a 90 % half-width: assumed, a
# factor of 1.6 either way.
ANALYTICAL_HALF_WIDTH = 0.5
# Runs of one cuBLAS GEMM under two engines differ by 2 to 4 % in the silicon tables, attention by less.
MEASURED_HALF_WIDTH = 0.03
Z_OF_90 = 1.6449  # a normal's 90 % half-width in standard deviations


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """``edges_s`` [classes - 1] part predicted seconds into classes; ``half_widths`` are
    [classes + 1, LEVELS], the last row for cases outside the data.
    """

    edges_s: Floats
    half_widths: Floats

    def classes(self, seconds: Floats, outside: Ints) -> Ints:
        """The class of each prediction; ``outside`` is 1 where its case lies outside the data."""
        inside = np.searchsorted(self.edges_s, seconds, side="right")
        return np.where(outside > 0, len(self.half_widths) - 1, inside).astype(np.int64)

    def half_width(self, seconds: Floats, outside: Ints, level: float) -> Floats:
        """
        Raises:
            ValueError: the level is none of LEVELS.
        """
        if level not in LEVELS:
            raise ValueError(f"level must be one of {LEVELS}, got {level}")
        column = self.half_widths[:, LEVELS.index(level)]
        return np.asarray(column[self.classes(seconds, outside)], dtype=np.float64)

    def draw(self, rng: np.random.Generator) -> Floats:
        """One error of the logarithm for each class [classes + 1], as one run of the simulator keeps it:
        a kernel that is slower than predicted is so in every step.
        """
        deviation = self.half_widths[:, LEVELS.index(0.9)] / Z_OF_90
        return np.asarray(rng.normal(0.0, deviation), dtype=np.float64)

    def to_bytes(self) -> bytes:
        body = io.BytesIO()
        np.savez(body, allow_pickle=False, edges_s=self.edges_s, half_widths=self.half_widths)
        return body.getvalue()

    @staticmethod
    def from_bytes(body: bytes) -> Calibration:
        with np.load(io.BytesIO(body), allow_pickle=False) as saved:
            return Calibration(saved["edges_s"], saved["half_widths"])


@dataclass(frozen=True, slots=True, eq=False)
class Misses:
    """Absolute errors of the logarithm [cases] of cases that the model had not seen, and their shapes."""

    errors: Floats
    shape: Ints


def calibration_of(
    predicted_s: Floats, inside: Misses, beyond: Misses, num_classes: int | None = None
) -> Calibration:
    """From errors ``inside`` the data, with what was predicted, and ``beyond`` the data that were fitted."""
    if num_classes is None:
        shapes = len(np.unique(inside.shape))
        num_classes = max(1, min(MOST_CLASSES, shapes // SHAPES_A_CLASS))
    edges = np.quantile(predicted_s, np.arange(1, num_classes) / num_classes)
    number = np.searchsorted(edges, predicted_s, side="right")
    rows = [
        _quantiles(inside.errors[number == i], inside.shape[number == i])
        for i in range(num_classes)
    ]
    outside = np.maximum(_quantiles(beyond.errors, beyond.shape), np.max(rows, axis=0))
    return Calibration(edges, np.stack([*rows, outside]))


def _quantiles(errors: Floats, shape: Ints) -> Floats:
    """The error that a share of LEVELS stays within, every shape counted once.

    Of the next shape, that within which j of G shapes lie covers between j and j + 1 in G + 1; the middle is
    aimed at. That is so where a shape's rows lie all within or all beyond. Where shapes lie partly within,
    their shares vary by less, by the design effect (Kish, Survey Sampling, 1965), and so much less is added.
    """
    if len(errors) == 0:
        return np.zeros(len(LEVELS))
    _, number, rows = np.unique(shape, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    order = np.argsort(errors)
    reached = np.cumsum((1 / rows[number] / len(rows))[order])

    def within(share: float) -> float:
        found = np.searchsorted(reached, share - ROUNDING)
        return float(errors[order][min(int(found), len(errors) - 1)])

    def aimed(level: float) -> float:
        if len(rows) == 1:  # says nothing of how shapes differ
            return within(level + (level - 0.5))
        shares = np.bincount(number, errors <= within(level), len(rows)) / rows
        effect = min(1.0, float(shares.var(ddof=1)) / (level * (1 - level)))
        return within(level + effect * (level - 0.5) / len(rows))

    return np.array([aimed(level) for level in LEVELS])


def coverage(
    calibration: Calibration, predicted_s: Floats, measured_s: Floats, outside: Ints
) -> dict[float, float]:
    """The share of measurements inside each level's interval; ``outside`` as in ``classes``."""
    errors = np.abs(np.log(predicted_s / measured_s))
    return {
        level: float(np.mean(errors <= calibration.half_width(predicted_s, outside, level)))
        for level in LEVELS
    }
