"""Intervals: as often right as they say, wider where errors are larger, and drawn once a run."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.learners.uncertainty import (
    LEVELS,
    Calibration,
    Misses,
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


def calibrated(seed: int, beyond: list[float] | None = None) -> Calibration:
    """On as many shapes as rows."""
    predicted, measured = errors(seed)
    every = np.arange(len(predicted))
    further = np.array(beyond or [0.1])
    return calibration_of(
        predicted,
        Misses(np.abs(np.log(predicted / measured)), every),
        Misses(further, every[: len(further)]),
    )


def test_intervals_cover_what_they_say_on_cases_not_seen() -> None:
    calibration = calibrated(0)
    inside = np.zeros(20_000, dtype=np.int64)
    for level, share in coverage(calibration, *errors(1), inside).items():
        assert share == pytest.approx(level, abs=0.02)


def test_intervals_are_wider_where_errors_are_larger() -> None:
    calibration = calibrated(0)
    short, long = calibration.half_width(np.array([1e-5, 0.5]), np.array([0, 0]), 0.9)
    assert short == pytest.approx(0.2 * 1.645, rel=0.1)
    assert long == pytest.approx(0.02 * 1.645, rel=0.1)


def test_outside_the_data_an_interval_is_never_narrower_than_inside() -> None:
    calibration = calibrated(0, [0.01, 0.02])
    outside = calibration.half_width(np.array([0.5]), np.array([1]), 0.9)
    assert outside[0] == calibration.half_widths[:-1, LEVELS.index(0.9)].max()


def test_a_handful_of_errors_gives_the_largest() -> None:
    """Four shapes cannot bound 95 of 100 any better than by the worst of them."""
    four = Misses(np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4))
    none = Misses(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert calibration_of(np.ones(4), four, none).half_widths[0] == pytest.approx(
        [0.2, 0.4, 0.4, 0.4]
    )


def test_a_shape_of_many_rows_counts_as_one_of_few() -> None:
    """Nine shapes of one row off by 1 %, one of 91 rows off by half: the tenth shape, not nine tenths."""
    shape = np.minimum(np.arange(100), 9)
    errors = np.where(shape < 9, 0.01, 0.5)
    none = Misses(np.zeros(0), np.zeros(0, dtype=np.int64))
    found = calibration_of(np.ones(100), Misses(errors, shape), none, num_classes=1)
    assert found.half_widths[0] == pytest.approx([0.01, 0.01, 0.5, 0.5])


@pytest.mark.parametrize(("of_shape", "of_row"), [(0.1, 0.02), (0.02, 0.1)])
def test_intervals_hold_whether_shapes_err_as_one_or_each_row_for_itself(
    of_shape: float, of_row: float
) -> None:
    """Twelve shapes of 30 rows: of the next ones as many as said. Where rows err alone these are 360 errors,
    and half-widths that allow for a handful would hold 98 of 100 where 95 are said.
    """
    rng = np.random.default_rng(0)
    covered = np.zeros(len(LEVELS))
    for _ in range(400):
        shape = np.repeat(np.arange(24), 30)
        errors = np.abs(rng.normal(0, of_shape, 24)[shape] + rng.normal(0, of_row, len(shape)))
        seen = shape < 12
        misses = Misses(errors[seen], shape[seen])
        found = calibration_of(np.ones(360), misses, misses)
        covered += np.mean(errors[~seen][:, None] <= found.half_widths[0], axis=0) / 400
    assert covered == pytest.approx(LEVELS, abs=0.02)


def test_a_draw_is_one_error_a_class_with_the_calibrated_spread() -> None:
    calibration = calibrated(0)
    draws = np.stack([calibration.draw(np.random.default_rng(seed)) for seed in range(4000)])
    assert draws.shape == (4000, 6)
    assert draws.std(axis=0)[[0, 4]] == pytest.approx([0.2, 0.02], rel=0.1)


def test_a_level_that_was_not_calibrated_is_named() -> None:
    calibration = calibrated(0)
    with pytest.raises(ValueError, match=r"level must be one of .*, got 0\.7"):
        calibration.half_width(np.array([1.0]), np.array([0]), 0.7)


def test_a_saved_calibration_is_the_same() -> None:
    calibration = calibrated(0)
    again = Calibration.from_bytes(calibration.to_bytes())
    np.testing.assert_array_equal(again.half_widths, calibration.half_widths)
