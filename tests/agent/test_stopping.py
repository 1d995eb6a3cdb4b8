"""The stopping rule and the verdict on samples, fed with numbers."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.agent.stopping import (
    Flag,
    Moments,
    StopReason,
    StopRule,
    judge,
    summarise,
    t_975,
)


def stopped_after(
    rule: StopRule, samples_us: list[float], sample_s: float = 0.0
) -> tuple[int, StopReason | None]:
    moments = Moments()
    for count, sample in enumerate(samples_us, start=1):
        moments.add(sample)
        if reason := rule.verdict(moments, count * sample_s):
            return count, reason
    return len(samples_us), None


def test_equal_samples_converge_at_the_minimum() -> None:
    assert stopped_after(StopRule(min_samples=10), [42.0] * 50) == (10, StopReason.CONVERGED)


def test_noise_that_never_settles_ends_at_the_maximum_of_samples() -> None:
    rule = StopRule(min_samples=3, max_samples=7, relative_ci=0.001)
    assert stopped_after(rule, [1.0, 3.0] * 10) == (7, StopReason.MAX_SAMPLES)


def test_noise_that_takes_too_long_ends_at_the_time_limit() -> None:
    rule = StopRule(min_samples=3, relative_ci=0.001, max_case_s=5.0)
    assert stopped_after(rule, [1.0, 3.0] * 10, sample_s=1.0) == (5, StopReason.MAX_TIME)


def test_the_minimum_of_samples_is_taken_even_past_the_time_limit() -> None:
    rule = StopRule(min_samples=4, relative_ci=0.001, max_case_s=1.0)
    assert stopped_after(rule, [1.0, 3.0] * 10, sample_s=10.0)[0] == 4


def test_half_width_of_a_case_worked_by_hand() -> None:
    moments = Moments()
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        moments.add(value)
    expected = 2.5706 * math.sqrt(3.5) / math.sqrt(6) / 3.5
    assert moments.relative_half_width() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("degrees", "t"), [(5, 2.5706), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_quantiles_of_student_are_those_of_the_tables(degrees: int, t: float) -> None:
    assert t_975(degrees) == pytest.approx(t, rel=2e-3)


@given(st.lists(st.floats(1, 100), min_size=2, max_size=30))
def test_running_moments_equal_the_statistics_of_all_samples(samples_us: list[float]) -> None:
    moments = Moments()
    for sample in samples_us:
        moments.add(sample)
    statistics = summarise(samples_us)
    half = t_975(len(samples_us) - 1) * statistics.std_us / math.sqrt(statistics.n)
    assert moments.mean == pytest.approx(statistics.mean_us)
    assert moments.relative_half_width() == pytest.approx(half / statistics.mean_us, abs=1e-6)


def test_summary_of_ten_samples_worked_by_hand() -> None:
    found = summarise([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert (found.n, found.mean_us, found.min_us, found.median_us) == (10, 5.5, 1.0, 5.5)
    assert found.p90_us == pytest.approx(9.1)
    assert found.std_us == pytest.approx(math.sqrt(82.5 / 9))


def scripted(kind: str, seed: int) -> list[float]:
    rng = random.Random(seed)
    noise = [rng.gauss(100.0, 1.0) for _ in range(200)]
    match kind:
        case "quiet":
            return noise
        case "drift":
            return [sample + 0.1 * i for i, sample in enumerate(noise)]
        case "step":
            return [sample + (10.0 if i >= 100 else 0.0) for i, sample in enumerate(noise)]
        case "tail":
            return [sample * (4.0 if i % 20 == 0 else 1.0) for i, sample in enumerate(noise)]
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("quiet", ()),
        ("drift", (Flag.DRIFTING,)),
        ("step", (Flag.DRIFTING,)),
        ("tail", (Flag.HEAVY_TAILED,)),
    ],
)
def test_twelve_scripted_timers_get_the_verdict_they_deserve(
    kind: str, flags: tuple[Flag, ...], seed: int
) -> None:
    assert judge(scripted(kind, seed), StopReason.CONVERGED) == flags


def test_samples_that_did_not_converge_say_so() -> None:
    assert judge([1.0, 3.0] * 3, StopReason.MAX_TIME) == (Flag.NOT_CONVERGED,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"relative_ci": 0.0}, "relative_ci must be between 0 and 1, not 0.0"),
        ({"min_samples": 1}, "min_samples must be between 2 and max_samples, not 1 of 1000"),
        ({"max_case_s": -1.0}, "max_case_s must be positive, not -1.0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        StopRule(**wrong)  # type: ignore[arg-type]  # one field at a time
