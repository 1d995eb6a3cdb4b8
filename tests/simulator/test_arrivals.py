"""Drawn arrivals against theory, and resampling against the trace it draws from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.arrival_processes import Gamma, with_arrivals
from servecast.simulator.traffic.arrivals import bootstrap, gamma_arrivals, stream
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.workload import PrefixBlocks, Workload


def numbered(num_requests: int) -> Workload:
    """Request ``i`` has ``i + 1`` prompt tokens and comes ``i`` seconds after the one before it."""
    order = np.arange(num_requests)
    return Workload("test", np.cumsum(order).astype(np.float64), order + 1, order * 2 + 1)


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_drawn_gaps_have_the_mean_and_the_variation_asked_for(cv: float) -> None:
    gaps_s = np.diff(gamma_arrivals(40_001, rate_per_s=4, cv=cv, rng=stream(7, "test")))
    assert abs(gaps_s.mean() - 0.25) < 4 * 0.25 * cv / np.sqrt(len(gaps_s))
    # The kurtosis excess of a gamma distribution is 6 CV^2, hence the variance's standard error.
    stderr = (cv / 4) ** 2 * np.sqrt((2 + 6 * cv**2) / len(gaps_s))
    assert abs(gaps_s.var() - (cv / 4) ** 2) < 4 * stderr


def test_poisson_gaps_are_exponential() -> None:
    gaps_s = np.diff(gamma_arrivals(10_001, rate_per_s=2, cv=1, rng=stream(3, "test")))
    for t in (0.1, 0.5, 1.5):
        share = np.exp(-2 * t)
        stderr = np.sqrt(share * (1 - share) / len(gaps_s))
        assert abs((gaps_s > t).mean() - share) < 4 * stderr


def test_without_variation_arrivals_are_a_metronome() -> None:
    assert gamma_arrivals(4, 2, 0, stream(0, "test")).tolist() == [0, 0.5, 1.0, 1.5]


@given(n=st.integers(1, 6), rate_per_s=st.floats(0.1, 10), cv=st.floats(0, 3), seed=st.integers(0))
def test_replaced_arrivals_have_the_rate_exactly_and_keep_the_requests(
    n: int, rate_per_s: float, cv: float, seed: int
) -> None:
    drawn = with_arrivals(numbered(n), rate_per_s, Gamma(cv), seed)
    assert drawn.prompt_tokens.tolist() == list(range(1, n + 1))
    assert drawn.arrival_s[0] == 0
    if drawn.span_s > 0:
        assert drawn.rate_per_s == pytest.approx(rate_per_s)


def test_streams_repeat_by_seed_and_name_and_differ_otherwise() -> None:
    draws = [stream(seed, name).random() for seed, name in [(1, "a"), (1, "a"), (1, "b"), (2, "a")]]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(
    ("rate_per_s", "cv", "message"),
    [
        (0, 1, "rate 0 must be above 0"),
        (1, -1, "CV -1 must be 0 .regular., 1"),
        (1, np.inf, "CV inf"),
    ],
)
def test_impossible_arrivals_are_refused(rate_per_s: float, cv: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gamma_arrivals(3, rate_per_s, cv, stream(0, "test"))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed -1 must be 0 or more"):
        stream(-1, "test")


@given(
    n=st.integers(2, 7), asked=st.integers(1, 30), block=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_resampling_keeps_each_request_with_its_lengths_and_its_gap(
    n: int, asked: int, block: int, seed: int
) -> None:
    trace = numbered(n)
    drawn = bootstrap(trace, asked, seed, block)
    assert len(drawn) == asked
    assert drawn.arrival_s[0] == 0
    assert (drawn.output_tokens == drawn.prompt_tokens * 2 - 1).all()
    gap_s = np.where(drawn.prompt_tokens == 1, 1 / trace.rate_per_s, drawn.prompt_tokens - 1.0)
    assert np.diff(drawn.arrival_s) == pytest.approx(gap_s[1:])
    same_block = np.arange(1, asked) % block > 0
    step = np.diff(drawn.prompt_tokens)
    assert np.isin(step[same_block], [1, 1 - n]).all()


def test_resampling_far_beyond_the_trace_keeps_its_rate() -> None:
    trace = numbered(50)
    drawn = bootstrap(trace, 20_000, seed=5, block_requests=5)
    assert drawn.rate_per_s == pytest.approx(trace.rate_per_s, rel=0.05)


def test_resampling_keeps_what_goes_together() -> None:
    """Outputs that follow their prompts, prompts that follow the one before, and bursts of arrivals."""
    rng = np.random.default_rng(3)
    level, busy = np.zeros(20_000), np.repeat(rng.random(400) < 0.3, 50)
    for i, noise in enumerate(rng.standard_normal(len(level) - 1), start=1):
        level[i] = 0.8 * level[i - 1] + 0.6 * noise  # unit variance
    prompt = np.rint(500 * np.exp(level)).astype(np.int64) + 1
    output = np.rint(prompt * np.exp(0.5 * rng.standard_normal(len(level)))).astype(np.int64) + 1
    gaps_s = rng.exponential(np.where(busy, 0.1, 1.0))
    trace = Workload("t", np.cumsum(gaps_s) - gaps_s[0], prompt, output)
    drawn = bootstrap(trace, 40_000, seed=8)
    before, after = describe(trace), describe(drawn)
    assert after.length_correlation == pytest.approx(before.length_correlation, abs=0.02)
    assert after.gap_cv == pytest.approx(before.gap_cv, rel=0.05)
    assert after.dispersion == pytest.approx(before.dispersion, rel=0.15)

    def following(workload: Workload) -> float:
        logs = np.log(workload.prompt_tokens)
        return float(np.corrcoef(logs[1:], logs[:-1])[0, 1])

    assert following(drawn) == pytest.approx(following(trace), abs=0.03)  # lost at 1 edge in 100


def test_resampled_requests_keep_their_prefix_blocks() -> None:
    blocks = PrefixBlocks(16, np.array([0, 1, 2, 3]), np.array([10, 20, 30]))
    drawn = bootstrap(dataclasses.replace(numbered(3), prefix=blocks), 8, seed=0, block_requests=2)
    assert drawn.prefix is not None
    assert (drawn.prefix.ids == drawn.prompt_tokens * 10).all()


def test_resampling_to_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="cannot resample 0 requests in blocks of 5"):
        bootstrap(numbered(3), 0, seed=0, block_requests=5)
