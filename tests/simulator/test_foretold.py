"""What a run tells of the capacity, by a fluid queue that is made as fast as the run shows it to be."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from engine_cases import even_tables
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.search.fluid_queue import FluidQueue, in_turn
from servecast.simulator.search.foretold import foretold
from servecast.simulator.search.likely import Likely
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Workload

ENGINE = Engine()
ONES = np.ones(10, np.int64)
EVEN = Workload("even", np.arange(10.0), ONES, 50 * ONES)
"""One request a second."""
FLEET = Fleet(even_tables(64, 8), EngineLimits(1, 64, 100))
LATE = LateTargets(queue_delay_s=2.0, max_late_queue_delay=15)


def queue(per_s: float) -> FluidQueue:
    """Requests of equal work, of which nothing is under way without a wait."""
    return FluidQueue.of(ONES.astype(float), EVEN, FLEET, (0.0, per_s))


def test_a_fluid_queue_worked_by_hand() -> None:
    """Two come each second and one is served: the k-th of ten finds k / 2 requests, k / 2 seconds of work."""
    assert queue(1.0).late(2.0, 2.9).tolist() == [[k / 2 > 2.9 for k in range(10)]]
    assert queue(2.0).count_late(2.0, 0.1) == 0


def test_the_highest_rate_of_a_fluid_queue_worked_by_hand() -> None:
    """The last of ten finds 9 - 9 / rate: no more than 3 where the rate is 9 / 6."""
    assert queue(1.0).highest_rate(3.0, 0) == pytest.approx(1.5, rel=0.004)
    assert queue(1.0).highest_rate(3.0, 0, near_per_s=0.1) == pytest.approx(1.5, rel=0.004)
    assert queue(1.0).highest_rate(3.0, 10) > 50  # all of them may wait


def test_each_of_several_queues_gets_a_request_in_turn() -> None:
    assert in_turn(np.arange(5.0), 2, 9.0).tolist() == [[0, 2, 4], [1, 3, 9]]


def drawn() -> Workload:
    rng = stream(3, "foretold")
    arrival_s = gamma_arrivals(600, 5.0, 1.5, rng)
    return Workload("drawn", arrival_s, rng.integers(10, 200, 600), rng.integers(2, 60, 600))


@settings(deadline=None, max_examples=20)
@given(replicas=st.integers(1, 3), most=st.integers(3, 60))
def test_a_run_given_up_says_less_and_one_that_holds_says_more(replicas: int, most: int) -> None:
    traffic = drawn()
    late = LateTargets(queue_delay_s=1.0, max_late_queue_delay=most)
    fleet = Fleet(even_tables(64, 8), EngineLimits(8, 64, 400), replicas)
    likely = Likely.of(traffic, fleet, late)
    for factor in (0.5, 0.9, 1.2, 3.0):
        rate_per_s = factor * likely.rate_per_s
        found = ENGINE.run(traffic.at_rate(rate_per_s), fleet, late)
        told = foretold(found, rate_per_s, likely, late)
        assert 0 < told <= 1 if found.given_up else told >= 1


def test_what_a_run_says_is_near_the_capacity_though_the_tables_say_something_else() -> None:
    """Its rate is taken to be half of what the tables say; runs near the capacity put it right."""
    traffic = drawn()
    late = LateTargets(queue_delay_s=2.0, max_late_queue_delay=15)
    fleet = Fleet(even_tables(64, 8), EngineLimits(8, 64, 400))
    capacity = highest(traffic, fleet, late)
    right = Likely.of(traffic, fleet, late)
    wrong = replace(right, queues=tuple(queue.times(0.5) for queue in right.queues))
    for factor in (0.9, 1.1, 1.5):
        found = ENGINE.run(traffic.at_rate(factor * capacity), fleet, late)
        told = foretold(found, factor * capacity, wrong, late)
        assert factor * told == pytest.approx(1.0, abs=0.15 if factor < 1.2 else 0.3)


def highest(traffic: Workload, fleet: Fleet, late: LateTargets) -> float:
    low, high = 0.1, 1000.0
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        given_up = ENGINE.run(traffic.at_rate(middle), fleet, late).given_up
        low, high = (low, middle) if given_up else (middle, high)
    return low


def test_a_run_without_waits_or_given_up_for_something_else_says_nothing() -> None:
    likely = Likely.of(EVEN, FLEET, LATE)
    found = ENGINE.run(EVEN, FLEET, LateTargets(queue_delay_s=2.0))
    assert foretold(found, 1.0, likely, LateTargets(queue_delay_s=2.0)) == inf
    slow = LateTargets(e2e_s=0.001)
    found = ENGINE.run(EVEN, FLEET, slow)
    assert found.broken_metric == "e2e"
    assert foretold(found, 1.0, likely, slow) == inf
