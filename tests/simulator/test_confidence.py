"""Intervals and ties of a ranking: what six resamples of a trace can and cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.simulator.search.confidence import RESAMPLES, Confidence, confidences


def draws(mean: float, noise: float, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    return list(mean * np.exp(noise * rng.standard_normal(RESAMPLES)))


def judged(resampled: list[list[float]], prices: list[float] | None = None) -> list[Confidence]:
    points = [each[0] for each in resampled]
    return confidences(points, resampled, prices or [1.0] * len(resampled))


def test_the_best_is_tied_with_itself() -> None:
    assert judged([draws(10, 0.05, 1)])[0].tied


def test_common_noise_does_not_hide_a_difference() -> None:
    shared = np.array(draws(1, 0.2, 2))
    near = [list(10 * shared), list(9.9 * shared * (1 + 1e-4 * np.arange(RESAMPLES)))]
    assert not judged(near)[1].tied


def test_own_noise_hides_a_small_difference_and_not_a_large_one() -> None:
    best, close, far = draws(10, 0.05, 3), draws(9.8, 0.05, 4), draws(6, 0.05, 5)
    tied = [each.tied for each in judged([best, close, far])]
    assert tied == [True, True, False]


def test_ties_are_of_requests_per_dollar() -> None:
    capacity = draws(10, 0.02, 6)
    assert judged([capacity, capacity])[1].tied
    assert not judged([capacity, capacity], [1.0, 2.0])[1].tied


def test_the_interval_covers_nine_of_ten_new_draws() -> None:
    covered = 0
    for seed in range(1000):
        point, new = draws(10, 0.1, seed)[0], draws(10, 0.1, 10_000 + seed)[0]
        low, high = confidences([point], [draws(10, 0.1, 20_000 + seed)], [1.0])[0].interval
        covered += low <= new <= high
    assert abs(covered / 1000 - 0.9) < 3 * np.sqrt(0.9 * 0.1 / 1000)


def test_the_interval_holds_the_capacity_that_was_found() -> None:
    low, high = confidences([30.0], [draws(10, 0.01, 8)], [1.0])[0].interval
    assert low < 30.0 < high


def test_a_resample_without_any_capacity_opens_the_interval_to_zero() -> None:
    found = judged([[10.0] * RESAMPLES, [9.0] * (RESAMPLES - 1) + [0.0]])
    assert found[1] == Confidence((0.0, 9.0), tied=False)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaling_all_capacities_scales_the_interval(factor: float) -> None:
    one = judged([draws(10, 0.1, 7)])[0].interval
    other = judged([[factor * v for v in draws(10, 0.1, 7)]])[0].interval
    assert other == pytest.approx(tuple(factor * edge for edge in one))
