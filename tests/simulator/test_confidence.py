"""Intervals and ties of a ranking: what six draws of the traffic and of the operator times can tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student_t

from servecast.simulator.search.confidence import (
    DRAWS,
    Confidence,
    Draws,
    carried_with,
    confidences,
    margin,
    spread,
)


def noisy(mean: float, noise: float, seed: int) -> tuple[float, ...]:
    rng = np.random.default_rng(seed)
    return tuple(mean * np.exp(noise * rng.standard_normal(DRAWS)))


def drawn(both: tuple[float, ...], price: float = 1.0, sampled: tuple[float, ...] = ()) -> Draws:
    return Draws(both[0], sampled or both, both, price)


def judged(*draws: Draws, confidence: float = 0.9) -> list[Confidence]:
    return confidences(draws, confidence)


def test_the_best_is_tied_with_itself() -> None:
    assert judged(drawn(noisy(10, 0.05, 1)))[0].tied


def test_common_noise_does_not_hide_a_difference() -> None:
    shared = np.array(noisy(1, 0.2, 2))
    behind = 9.9 * shared * (1 + 1e-4 * np.arange(DRAWS))
    assert not judged(drawn(tuple(10 * shared)), drawn(tuple(behind)))[1].tied


def test_own_noise_hides_a_small_difference_and_not_a_large_one() -> None:
    best, close, far = noisy(10, 0.05, 3), noisy(9.8, 0.05, 4), noisy(6, 0.05, 5)
    tied = [each.tied for each in judged(drawn(best), drawn(close), drawn(far))]
    assert tied == [True, True, False]


def test_ties_are_of_requests_per_dollar() -> None:
    capacity = noisy(10, 0.02, 6)
    assert judged(drawn(capacity), drawn(capacity))[1].tied
    assert not judged(drawn(capacity), drawn(capacity, price=2.0))[1].tied


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_an_interval_scales_with_its_capacities(factor: float) -> None:
    values = noisy(10, 0.1, 7)
    one = judged(drawn(values))[0].interval
    other = judged(drawn(tuple(factor * v for v in values)))[0].interval
    assert other == pytest.approx(tuple(factor * edge for edge in one))


def test_more_confidence_is_a_wider_interval_and_ties_more() -> None:
    best, close = drawn(noisy(10, 0.05, 3)), drawn(noisy(9.3, 0.05, 4))
    loose, strict = (judged(best, close, confidence=level) for level in (0.8, 0.99))
    assert strict[0].interval[0] < loose[0].interval[0]
    assert (loose[1].tied, strict[1].tied) == (False, True)


def test_the_errors_of_operator_times_widen_an_interval_and_are_told_apart_from_the_traffic() -> (
    None
):
    sampled, both = noisy(10, 0.02, 8), noisy(10, 0.2, 9)
    found = judged(drawn(both, sampled=sampled))[0]
    assert found.trace_share is not None
    assert found.trace_share < 0.1
    assert found.interval[1] - found.interval[0] > judged(drawn(sampled))[0].interval[1] - 10


def test_a_tie_says_what_would_end_it() -> None:
    steady = tuple(10 + 0.01 * np.arange(DRAWS))
    best = drawn(noisy(10, 0.2, 3), sampled=steady)
    unsure = drawn(noisy(9.9, 0.2, 4), sampled=tuple(9.9 + 0.02 * np.arange(DRAWS)))
    apart = judged(best, unsure)[1].apart
    assert apart is not None
    assert apart.by == "profiling"
    short = judged(drawn(noisy(10, 0.05, 3)), drawn(noisy(9.8, 0.05, 4)))[1].apart
    assert short is not None
    assert short.by == "more trace"
    assert short.times is not None
    assert short.times >= 2
    same = judged(best, best)[1].apart
    assert same is not None
    assert same.by == "neither"


def test_what_nobody_drew_is_as_uncertain_as_the_widest_of_its_kind() -> None:
    narrow, wide = drawn(noisy(10, 0.02, 8)), drawn(noisy(20, 0.2, 9))
    (low, high) = judged(narrow, wide)[1].interval
    alike = spread([narrow, wide], narrow)
    assert alike.interval(5.0) == pytest.approx((5.0 * low / wide.found, 5.0 * high / wide.found))
    assert spread([narrow], narrow).behind == 0  # it is no more than itself behind the best
    assert alike.behind == spread([wide], narrow).behind > 0


def test_of_a_kind_that_has_no_capacity_in_a_draw_nothing_is_told_from_the_best() -> None:
    best, failing = drawn(noisy(10, 0.02, 8)), drawn((10.0, 0.0, 9.0, 10.0, 11.0, 10.0))
    alike = spread([failing], best)
    assert alike.interval(4.0)[0] == 0
    assert alike.behind == float("inf")


def test_a_draw_without_capacity_leaves_no_lower_bound() -> None:
    found = judged(drawn((10.0, 11.0, 0.0, 10.0, 9.0, 10.0)))[0]
    assert found.interval == (0.0, 11.0)
    assert found.trace_share is None


def test_a_rate_is_carried_as_surely_as_student_says() -> None:
    """Of six draws: scipy's distribution, and half at the capacity itself."""
    draws = drawn(noisy(10, 0.1, 7))
    width = np.std(np.log(draws.both), ddof=1) * np.sqrt(2)
    for rate in (7.0, draws.found, 12.0):
        known = student_t.cdf(np.log(draws.found / rate) / width, DRAWS - 1)
        assert carried_with(draws, rate) == pytest.approx(known)
    assert carried_with(draws, draws.found) == 0.5


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_a_capacity_with_the_margin_carries_a_rate_as_surely_as_asked(confidence: float) -> None:
    draws = drawn(noisy(10, 0.1, 7))
    rate = draws.found / margin(draws, confidence)
    assert carried_with(draws, rate) == pytest.approx(confidence, abs=1e-3)


def test_a_draw_without_capacity_leaves_a_share_of_the_draws_and_no_margin() -> None:
    draws = drawn((10.0, 11.0, 0.0, 8.0, 9.0, 10.0))
    assert carried_with(draws, 9.5) == 4 / 7
    assert margin(draws, 0.8) == np.inf


def test_draws_that_agree_are_sure() -> None:
    draws = drawn((10.0,) * DRAWS)
    assert [carried_with(draws, rate) for rate in (9.9, 10.1)] == [1.0, 0.0]
    assert margin(draws, 0.99) == 1.0
