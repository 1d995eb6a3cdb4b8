"""The capacity search: the highest rate that keeps the targets, the same whatever path leads to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import even_tables

from servecast.compiler.service import Slo
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import summarise, value
from servecast.simulator.search.bisection import find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.bracket import TOLERANCE
from servecast.simulator.search.capacity import (
    QUEUE_DELAY,
    Capacity,
    Hopeless,
    Judge,
    late_targets,
    replicas_needed,
)
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Workload

TTFT = Slo("ttft", 90, 0.5)
LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=64, kv_blocks=400)
TABLES = even_tables(LIMITS.max_batched_tokens, LIMITS.max_num_seqs)


def workload(requests: int = 400) -> Workload:
    rng = stream(7, "test")
    return Workload(
        "drawn",
        gamma_arrivals(requests, 5.0, 1.0, rng),
        rng.integers(10, 100, requests),
        rng.integers(2, 30, requests),
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def find(engine: Engine, slos: tuple[Slo, ...], guess: float | None = None) -> Capacity | Hopeless:
    fleet = Fleet(TABLES, LIMITS)
    upper = max_rate_per_s(workload(), TABLES, LIMITS)
    return find_capacity(Judge(workload(), slos, engine), fleet, upper, guess)


def whole(engine: Engine, found: Capacity, slos: tuple[Slo, ...]) -> Records:
    run = Judge(workload(), slos, engine).records(Fleet(TABLES, LIMITS), found.rate_per_s)
    assert isinstance(run, Records)
    return run


def test_the_targets_hold_at_the_capacity_and_break_just_above_it(engine: Engine) -> None:
    found = find(engine, (TTFT,))
    assert isinstance(found, Capacity)
    assert value(whole(engine, found, (TTFT,)), "ttft", 90) <= TTFT.limit_s
    above = workload().at_rate(found.rate_per_s * (1 + 2 * TOLERANCE))
    assert value(engine.run(above, Fleet(TABLES, LIMITS)), "ttft", 90) > TTFT.limit_s
    assert found.breaks == (TTFT,)


@pytest.mark.parametrize("factor", [0.5, 0.97, 1.0, 1.03, 2.0])
def test_a_guess_changes_the_path_and_not_the_answer(engine: Engine, factor: float) -> None:
    plain = find(engine, (TTFT,))
    assert isinstance(plain, Capacity)
    guessed = find(engine, (TTFT,), plain.rate_per_s * factor)
    assert isinstance(guessed, Capacity)
    assert guessed.rate_per_s == pytest.approx(plain.rate_per_s, rel=2 * TOLERANCE)


def test_a_looser_target_never_lowers_the_capacity(engine: Engine) -> None:
    rates = []
    for limit_s in (0.1, 0.2, 0.4, 0.8):
        found = find(engine, (Slo("ttft", 90, limit_s),))
        assert isinstance(found, Capacity)
        rates.append(found.rate_per_s)
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    "slo", [Slo("ttft", None, 0.3), Slo("tpot", 90, 0.02), Slo("e2e", 99, 2.0)]
)
def test_means_and_tpot_are_judged_as_well(engine: Engine, slo: Slo) -> None:
    found = find(engine, (slo,))
    assert isinstance(found, Capacity)
    assert value(whole(engine, found, (slo,)), slo.metric, slo.percentile) <= slo.limit_s


def test_a_second_target_of_one_metric_counts_too(engine: Engine) -> None:
    tight = Slo("ttft", 50, 0.05)
    both = find(engine, (TTFT, tight))
    assert isinstance(both, Capacity)
    assert value(whole(engine, both, (TTFT, tight)), "ttft", 50) <= tight.limit_s
    assert both.breaks == (tight,)


def test_a_target_that_an_idle_replica_breaks_is_hopeless(engine: Engine) -> None:
    found = find(engine, (Slo("tbt", 50, 0.001),))
    assert isinstance(found, Hopeless)
    assert [v.slo.metric for v in found.violations] == ["tbt"]
    assert found.violations[0].value_s > 0.01


def test_a_request_that_no_cache_holds_is_hopeless_and_counted(engine: Engine) -> None:
    long = Workload("long", np.array([0.0, 1.0]), np.array([10, 9000]), np.array([2, 2]))
    fleet = Fleet(TABLES, LIMITS)
    found = find_capacity(Judge(long, (TTFT,), engine), fleet, 5.0)
    assert isinstance(found, Hopeless)
    assert found.rejected == 1


@pytest.mark.parametrize("rate_per_s", [5, 50, 5000])
def test_no_load_is_served_faster_than_the_bound(engine: Engine, rate_per_s: float) -> None:
    served = summarise(engine.run(workload().at_rate(rate_per_s), Fleet(TABLES, LIMITS)))
    assert served.requests_per_s < max_rate_per_s(workload(), TABLES, LIMITS)


def test_the_fewest_replicas_that_keep_the_targets_are_found_from_any_estimate(
    engine: Engine,
) -> None:
    fleet = Fleet(TABLES, LIMITS, router="least_outstanding")
    busy = Judge(workload().at_rate(100.0), (TTFT,), engine)

    def holds(replicas: int) -> bool:
        return busy.broken(replace(fleet, replicas=replicas)) == ()

    kept = [n for n in range(1, 13) if holds(n)]
    assert 1 < kept[0] < 12
    assert {replicas_needed(holds, n, 12) for n in (1, 3, 12, 40)} == {kept[0]}
    assert replicas_needed(holds, 1, kept[0] - 1) is None


def test_late_counts_follow_the_first_percentile_target_of_each_metric() -> None:
    late = late_targets(
        workload(100), (TTFT, Slo("ttft", 99, 9.0), Slo("e2e", None, 1.0), QUEUE_DELAY)
    )
    assert (late.ttft_s, late.max_late_ttft) == (0.5, 10)
    assert late.e2e_s == float("inf")
    assert (late.queue_delay_s, late.max_late_queue_delay) == (5.0, 1)
