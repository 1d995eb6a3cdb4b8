"""Intervals of latencies over draws of the traffic."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest
from engine_cases import tables_of, workload_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import summarise
from servecast.simulator.search.latency_spread import (
    at_capacity,
    at_trace_rate,
    interval,
    intervals,
)


def test_an_interval_worked_by_hand() -> None:
    draws = [exp(value) for value in (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)]  # a spread of sqrt(6/5)
    reach = 2.015 * sqrt(6 / 5) * sqrt(2)
    assert interval(2.0, draws) == pytest.approx([2 * exp(-reach), 2 * exp(reach)])


def test_draws_that_agree_leave_a_point_and_a_zero_takes_their_range() -> None:
    assert interval(3.0, [3.0] * 6) == pytest.approx([3.0, 3.0])
    assert interval(0.0, [0.0, 0.5, 0.1, 0.0, 0.2, 0.0]) == [0.0, 0.5]


def test_every_statistic_of_a_run_lies_in_its_interval() -> None:
    rng = np.random.default_rng(3)
    arrivals_s = np.cumsum(rng.exponential(0.5, 400)).tolist()
    rows = [(at_s, int(rng.integers(1, 20)), int(rng.integers(1, 9))) for at_s in arrivals_s]
    limits = EngineLimits(max_num_seqs=8, max_batched_tokens=32, kv_blocks=64)
    found = at_trace_rate(workload_of(*rows), Fleet(tables_of(per_token_s=0.02), limits), seed=3)
    assert found["intervals"].keys() == found["metrics"].keys()
    for name, bounds in found["intervals"].items():
        for statistic, (low, high) in bounds.items():
            assert low <= found["metrics"][name][statistic] <= high
    low, high = found["intervals"]["e2e_s"]["p90"]
    assert low < high


def test_a_busier_deployment_s_latencies_are_where_its_own_rate_puts_them() -> None:
    rng = np.random.default_rng(4)
    arrivals_s = np.cumsum(rng.exponential(0.5, 400)).tolist()
    traffic = workload_of(*((at_s, 10, 5) for at_s in arrivals_s))
    limits = EngineLimits(max_num_seqs=8, max_batched_tokens=32, kv_blocks=64)
    fleet = Fleet(tables_of(per_token_s=0.02), limits)
    calm, busy = (at_capacity(traffic, fleet, 4, rate_per_s) for rate_per_s in (0.5, 4.0))
    assert calm["ttft_s"]["p90"][1] < busy["ttft_s"]["p90"][0]


def test_a_statistic_that_a_draw_lacks_has_no_interval() -> None:
    limits = EngineLimits(max_num_seqs=8, max_batched_tokens=32, kv_blocks=64)
    fleet = Fleet(tables_of(), limits)
    single = summarise(Engine().run(workload_of((0.0, 2, 1), (1.0, 2, 1)), fleet))
    several = summarise(Engine().run(workload_of((0.0, 2, 3), (1.0, 2, 3)), fleet))
    assert np.isnan(single.tpot_s.p50)
    assert "p50" not in intervals(several, [several, single])["tpot_s"]
    assert "p50" in intervals(several, [several, several])["tpot_s"]
