"""Calibration and sampling with a clock made of arithmetic."""

from __future__ import annotations

import pytest

from servecast.agent.stopping import StopReason, StopRule
from servecast.agent.timing import (
    MAX_LAUNCHES,
    Rotation,
    Sampling,
    launches_per_sample,
    take_samples,
)


@pytest.mark.parametrize(("launch_us", "expected"), [(1000.0, 1), (500.0, 2), (7.0, 143)])
def test_a_sample_has_just_enough_launches(launch_us: float, expected: int) -> None:
    launches = launches_per_sample(lambda count: count * launch_us, floor_us=1000.0, step=1)
    assert expected <= launches <= expected * 2
    assert launches * launch_us >= 1000.0


def test_a_sample_is_a_whole_number_of_rotations() -> None:
    assert launches_per_sample(lambda count: count * 7.0, floor_us=1000.0, step=5) % 5 == 0


def test_a_slow_first_launch_does_not_pass_for_a_long_one() -> None:
    calls: list[int] = []

    def elapsed_us(count: int) -> float:
        calls.append(count)
        return 5000.0 if len(calls) == 1 else count * 100.0

    assert launches_per_sample(elapsed_us, floor_us=1000.0, step=1) >= 10


def test_launches_too_short_for_the_clock_stop_at_the_limit() -> None:
    assert launches_per_sample(lambda count: 0.0, floor_us=1000.0, step=3) <= MAX_LAUNCHES


def test_samples_are_times_of_one_launch_and_are_all_kept() -> None:
    sampling = Sampling(launches=4, samples_us=[])
    rule = StopRule(min_samples=3)
    assert (
        list(take_samples(lambda count: 10.0 * count, rule, lambda: False, sampling)) == [10.0] * 3
    )
    assert (sampling.samples_us, sampling.reason) == ([10.0] * 3, StopReason.CONVERGED)


def test_a_stopped_case_has_no_reason() -> None:
    sampling = Sampling(launches=1, samples_us=[])
    stopped = iter([False, False, True])
    assert (
        len(list(take_samples(lambda count: 1.0, StopRule(), lambda: next(stopped), sampling))) == 2
    )
    assert sampling.reason is None


def test_the_time_limit_counts_the_time_of_all_launches() -> None:
    sampling = Sampling(launches=100, samples_us=[])
    noise = iter([1.0, 3.0] * 50)
    rule = StopRule(min_samples=2, max_case_s=0.001)
    list(take_samples(lambda count: count * next(noise), rule, lambda: False, sampling))
    assert (len(sampling.samples_us), sampling.reason) == (6, StopReason.MAX_TIME)


def test_a_rotation_goes_on_where_it_left_off() -> None:
    rotation = Rotation(("a", "b", "c"))
    assert [rotation.take(1), rotation.take(1), rotation.take(4)] == [["a"], ["b"], [*"cabc"]]
