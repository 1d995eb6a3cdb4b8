"""Metrics: worked by hand, and equal to what counting token by token gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.metrics.metrics import Window, allowed_late, samples, summarise, value

LIMITS = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=10, block_tokens=1)


@pytest.fixture(scope="module")
def two() -> Records:
    """One second a token: 0-2 A's prompt; 2-3 A; 3-5 A's last and B's prompt; 5-6 B's last."""
    return simulate(workload_of((0, 2, 3), (3, 1, 2)), Fleet(tables_of(), LIMITS), compiled=False)


def test_the_latencies_of_two_requests(two: Records) -> None:
    assert [t.tolist() for t in two.token_times()] == [[2, 3, 5], [5, 6]]
    assert [value(two, "ttft", p) for p in (50, 51, 100, None)] == [2, 2, 2, 2]
    assert [value(two, "e2e", p) for p in (50, 51, 100, None)] == [3, 5, 5, 4]
    assert [value(two, "queue_delay", p) for p in (50, None)] == [0, 0]
    assert [value(two, "tpot", p) for p in (50, 100, None)] == [1, 1.5, 1.25]
    assert samples(two, "tbt").repeated().tolist() == [1, 1, 2]
    assert value(two, "tbt", None) == pytest.approx(4 / 3)


def test_how_the_replica_was_used(two: Records) -> None:
    """Blocks 2, 3, 5, 2 of 10 for 2, 1, 2, 1 of the six seconds."""
    found = summarise(two)
    assert found.duration_s == 6
    assert found.requests_per_s == pytest.approx(2 / 6)
    assert found.output_tokens_per_s == pytest.approx(5 / 6)
    assert found.mean_batch == pytest.approx((1 + 1 + 2 + 1) / 4)
    assert found.mean_tokens == pytest.approx((2 + 1 + 2 + 1) / 4)
    assert found.kv_use_mean == pytest.approx((2 * 2 + 3 * 1 + 5 * 2 + 2 * 1) / 6 / 10)
    assert found.kv_use_peak == pytest.approx(0.5)
    assert found.busy == 1
    assert (found.num_finished, found.num_rejected, found.num_unfinished) == (2, 0, 0)


def test_idle_time_is_not_busy() -> None:
    records = simulate(
        workload_of((0, 1, 1), (3, 1, 1)), Fleet(tables_of(), LIMITS), compiled=False
    )
    assert summarise(records).busy == pytest.approx(2 / 4)


def test_two_batches_at_once_are_busy_once() -> None:
    """Two stages, in flight 0-4 and 1-6 and 4-8."""
    records = simulate(
        workload_of((0, 2, 1), (1, 2, 2)), Fleet(tables_of(stages=2), LIMITS), compiled=False
    )
    assert records.end_s.max() - records.start_s.min() == summarise(records).duration_s
    assert summarise(records).busy == 1


def test_a_window_takes_its_arrivals_and_the_tokens_in_it(two: Records) -> None:
    window = Window(3, 6)
    assert samples(two, "e2e", window).repeated().tolist() == [3]
    assert samples(two, "tbt", window).repeated().tolist() == [1, 2]
    assert summarise(two, window).num_finished == 1


def test_what_is_absent_is_nan() -> None:
    records = simulate(workload_of((0, 50, 1)), Fleet(tables_of(), LIMITS), compiled=False)
    found = summarise(records)
    assert found.num_rejected == 1
    for number in (
        found.ttft_s.p50,
        found.tbt_s.mean,
        found.duration_s,
        found.kv_use_mean,
        found.busy,
    ):
        assert math.isnan(number)
    one = simulate(workload_of((0, 1, 1)), Fleet(tables_of(), LIMITS), compiled=False)
    assert math.isnan(value(one, "tbt", 99))
    assert math.isnan(value(one, "tpot", None))


def test_gaps_are_those_between_the_tokens_of_every_request() -> None:
    engine = Engine()
    preempted = 0
    for seed in range(200):
        records = engine.run(*random_case(seed))
        found = samples(records, "tbt")
        gaps = np.sort(np.concatenate([np.diff(t) for t in records.token_times()]))
        assert found.repeated() == pytest.approx(gaps)
        for percentile in (1, 50, 99, 100):
            if len(gaps):
                expected = np.percentile(gaps, percentile, method="inverted_cdf")
                assert found.percentile(percentile) == pytest.approx(expected)
        preempted += bool(records.preemptions.any())
    assert preempted > 40


@pytest.mark.parametrize("percentile", [1, 37.5, 50, 90, 99, 99.9, 100])
def test_percentiles_are_numpys_inverted_distribution(percentile: float) -> None:
    records = Engine().run(*random_case(3))
    values = samples(records, "e2e").values
    expected = np.percentile(values, percentile, method="inverted_cdf")
    assert value(records, "e2e", percentile) == expected
    assert (values > expected).sum() <= allowed_late(len(values), percentile)


def overload(load: float) -> Records:
    """Arrivals every second, each worth ``load`` seconds of a replica that takes one at a time."""
    workload = workload_of(*((float(i), 10, 1) for i in range(300)))
    limits = EngineLimits(max_num_seqs=1, max_batched_tokens=10, kv_blocks=10)
    return Engine().run(workload, Fleet(tables_of(per_token_s=load / 10), limits))


def test_a_replica_that_cannot_keep_up_is_not_stable() -> None:
    assert summarise(overload(0.99)).stable
    assert not summarise(overload(1.1)).stable
