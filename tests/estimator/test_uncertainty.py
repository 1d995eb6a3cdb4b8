"""Intervals: as often right as they say, wider where errors are larger, and drawn once a run."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.learners.uncertainty import (
    LEVELS,
    Calibration,
    calibration_of,
    coverage,
)
from servecast.estimator.measurement import Floats


def errors(seed: int, rows: int = 20_000) -> tuple[Floats, Floats]:
    """Predictions from 1 us to 1 s, short ones off by 20 %, long ones by 2 %."""
    rng = np.random.default_rng(seed)
    predicted = np.exp(rng.uniform(np.log(1e-6), 0, rows))
    spread = np.where(predicted < 1e-3, 0.2, 0.02)
    return predicted, predicted * np.exp(rng.normal(0, spread))


def test_intervals_cover_what_they_say_on_cases_not_seen() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.1]))
    inside = np.zeros(20_000, dtype=np.int64)
    for level, share in coverage(calibration, *errors(1), inside).items():
        assert share == pytest.approx(level, abs=0.02)


def test_intervals_are_wider_where_errors_are_larger() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.1]))
    short, long = calibration.half_width(np.array([1e-5, 0.5]), np.array([0, 0]), 0.9)
    assert short == pytest.approx(0.2 * 1.645, rel=0.1)
    assert long == pytest.approx(0.02 * 1.645, rel=0.1)


def test_outside_the_data_an_interval_is_never_narrower_than_inside() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.01, 0.02]))
    outside = calibration.half_width(np.array([0.5]), np.array([1]), 0.9)
    assert outside[0] == calibration.half_widths[:-1, LEVELS.index(0.9)].max()


def test_a_handful_of_errors_gives_the_largest() -> None:
    """Four errors cannot bound 95 of 100 cases any better than by the worst of them."""
    one = np.ones(4)
    calibration = calibration_of(one, one * np.exp([0.1, -0.2, 0.3, -0.4]), one * 0, num_classes=1)
    assert calibration.half_widths[0] == pytest.approx([0.3, 0.4, 0.4, 0.4])


def test_a_draw_is_one_error_a_class_with_the_calibrated_spread() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.1]))
    draws = np.stack([calibration.draw(np.random.default_rng(seed)) for seed in range(4000)])
    assert draws.shape == (4000, 6)
    assert draws.std(axis=0)[[0, 4]] == pytest.approx([0.2, 0.02], rel=0.1)


def test_a_level_that_was_not_calibrated_is_named() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.1]))
    with pytest.raises(ValueError, match=r"level must be one of .*, got 0\.7"):
        calibration.half_width(np.array([1.0]), np.array([0]), 0.7)


def test_a_saved_calibration_is_the_same() -> None:
    calibration = calibration_of(*errors(0), beyond=np.array([0.1]))
    again = Calibration.from_bytes(calibration.to_bytes())
    np.testing.assert_array_equal(again.half_widths, calibration.half_widths)
