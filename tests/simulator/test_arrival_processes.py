"""Named arrival processes against their theory, and every bad way to write one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.arrival_processes import (
    PROCESSES,
    Diurnal,
    Gamma,
    MarkovModulated,
    parse_arrivals,
    with_arrivals,
)
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Floats, Workload


def drawn(text: str, num_requests: int, rate_per_s: float, seed: int = 0) -> Floats:
    return parse_arrivals(text).draw(num_requests, rate_per_s, stream(seed, "test"))


@pytest.mark.parametrize("name", PROCESSES)
@given(n=st.integers(1, 6), rate_per_s=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_every_process_starts_at_0_and_never_goes_back(
    name: str, n: int, rate_per_s: float, seed: int
) -> None:
    arrival_s = drawn(name, n, rate_per_s, seed)
    assert len(arrival_s) == n
    assert arrival_s[0] == 0
    assert (np.diff(arrival_s) >= 0).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_equal_seeds_give_equal_arrivals(name: str) -> None:
    assert (drawn(name, 50, 2.0, seed=4) == drawn(name, 50, 2.0, seed=4)).all()
    assert (drawn(name, 50, 2.0, seed=4) != drawn(name, 50, 2.0, seed=5)).any()


def test_poisson_is_gamma_with_cv_1() -> None:
    assert (drawn("poisson", 20, 3.0) == drawn("gamma:cv=1", 20, 3.0)).all()


def test_a_modulated_process_keeps_its_mean_rate_over_many_spells() -> None:
    arrival_s = drawn("mmpp:burst=4,busy_s=1,quiet_s=3", 80_000, 10.0)
    # The share of busy time over n cycles strays by about its own CV (below 1) over sqrt(n).
    cycles = arrival_s[-1] / 4
    assert (len(arrival_s) - 1) / arrival_s[-1] == pytest.approx(10.0, rel=4 / np.sqrt(cycles))


def test_the_counts_of_a_modulated_process_spread_as_theory_says() -> None:
    """Index of dispersion of an MMPP(2) over long windows: 1 + 2 (a - b)^2 s r / ((s + r)^2 (a r + b s)),
    with rates a, b and switching rates s (out of a), r (out of b); Fischer and Meier-Hellstern, eq. 12."""
    process = MarkovModulated(burst=6, busy_s=1, quiet_s=4)
    arrival_s = process.draw(400_000, 10.0, stream(1, "test"))
    s, r = 1.0, 1 / 4
    quiet = 10.0 * 5 / (4 + 6 * 1)
    busy = 6 * quiet
    limit = 1 + 2 * (busy - quiet) ** 2 * s * r / ((s + r) ** 2 * (busy * r + quiet * s))
    window_s = 100.0
    counts = np.bincount((arrival_s / window_s).astype(int))[:-1]
    stderr = limit * np.sqrt(2 / len(counts))
    # Short of an infinite window the index lacks (1 - exp(-(s + r) w)) / ((s + r) w) of its excess.
    expected = 1 + (limit - 1) * (1 - 1 / ((s + r) * window_s))
    assert abs(counts.var() / counts.mean() - expected) < 4 * stderr


def test_without_a_burst_a_modulated_process_is_poisson() -> None:
    gaps_s = np.diff(drawn("mmpp:burst=1,busy_s=1,quiet_s=1", 20_001, 2.0))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 20_000))


def test_a_day_of_arrivals_follows_the_cosine() -> None:
    day_s, rate_per_s, days = 1000.0, 20.0, 5
    arrival_s = Diurnal(peak=1.8, period_s=day_s).draw(
        int(days * day_s * rate_per_s), rate_per_s, stream(2, "test")
    )
    counts = np.bincount((arrival_s % day_s // (day_s / 4)).astype(int), minlength=4)[:4]
    # The integral of 1 - 0.8 cos over each quarter of the period.
    shares = np.array(
        [0.25 - 0.4 / np.pi, 0.25 + 0.4 / np.pi, 0.25 + 0.4 / np.pi, 0.25 - 0.4 / np.pi]
    )
    expected = len(arrival_s) * shares
    assert (
        np.abs(counts - expected) < 4 * np.sqrt(expected) + 4 * np.sqrt(len(arrival_s)) / 4
    ).all()


def test_a_flat_day_is_poisson() -> None:
    unit = gamma_arrivals(9, 1.0, 1.0, stream(3, "test"))
    assert Diurnal(peak=1.0).draw(9, 2.0, stream(3, "test")) == pytest.approx(unit / 2)


def test_new_arrivals_leave_the_requests_as_they_are() -> None:
    before = Workload("t", np.arange(4.0), np.arange(4) + 1, np.arange(4) + 5)
    after = with_arrivals(before, 2.0, Gamma(0.5), seed=1)
    assert after.rate_per_s == pytest.approx(2.0)
    assert (after.prompt_tokens == before.prompt_tokens).all()
    assert (after.arrival_s != before.arrival_s).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("posson", r"no process 'posson' \(did you mean 'poisson'\?\); there are poisson, gamma"),
        ("gamma:cw=2", r"gamma takes cv, not 'cw'"),
        ("poisson:cv=2", "poisson takes no parameters, not 'cv'"),
        ("gamma:cv=lots", "cv 'lots' is not a number"),
        ("gamma:cv", "cv '' is not a number"),
        ("gamma:cv=nan", "gamma: cv nan must be between 0 and 100"),
        ("mmpp:burst=0.5", "mmpp: burst 0.5 must be between 1 and 10000"),
        ("diurnal:peak=3", "diurnal: peak 3 must be between 1 and 2"),
        ("diurnal:period_s=0", "period_s 0 must be between 0.001"),
    ],
)
def test_a_process_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_arrivals(text)


@pytest.mark.parametrize("name", ["mmpp", "diurnal", "gamma"])
def test_a_rate_of_0_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="rate 0 must be above 0"):
        drawn(name, 3, 0.0)
