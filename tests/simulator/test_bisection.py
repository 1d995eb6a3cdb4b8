"""The shortcuts of the capacity search: where to look next, and what is known of a twin."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from math import log
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pytest
from engine_cases import even_tables
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import summarise
from servecast.simulator.search.bisection import Known, find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.bracket import HIGHEST, IDLE, Bracket
from servecast.simulator.search.capacity import Capacity, Judge
from servecast.simulator.search.headroom import headroom, likely_headroom
from servecast.simulator.search.twins import Peak, are_twins
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Workload

SEQUENCES, TOKENS, BLOCKS = (4, 32, 64), (64, 256), (60, 400, 900)
TTFT = Slo("ttft", 90, 0.5)


def tables(stages: int = 1) -> RuntimeTables:
    return even_tables(max(TOKENS), max(SEQUENCES), stages=stages)


def workload(longest: int) -> Workload:
    rng = stream(longest, "test")
    return Workload(
        "drawn",
        gamma_arrivals(300, 5.0, 1.5, rng),
        rng.integers(10, longest, 300),
        rng.integers(2, 30, 300),
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@given(
    crossing=st.integers(IDLE, HIGHEST - 1),
    guess=st.integers(IDLE, HIGHEST),
    rooms=st.lists(st.floats(-5, 500) | st.just(float("inf")), min_size=1, max_size=9),
)
def test_a_bracket_closes_where_the_targets_break_whatever_the_runs_seemed_to_say(
    crossing: int, guess: int, rooms: list[float]
) -> None:
    bracket, at = Bracket(), guess
    for probe in range(60):
        if at <= crossing:
            bracket.holds(at, rooms[probe % len(rooms)])
        else:
            bracket.breaks(at)
        if bracket.closed:
            break
        before, at = at, bracket.next_place()
        assert at != before
        assert IDLE <= at <= HIGHEST
    assert (bracket.low, bracket.high) == (crossing, crossing + 1)


@pytest.mark.parametrize(("first", "probes"), [(-10, [-10, 1, 0]), (9, [9, 0, 1])])
def test_a_run_that_tells_how_far_it_is_ends_a_search_in_three_probes(
    first: int, probes: list[int]
) -> None:
    """The capacity is at 0.5; of the places that runs given up say they are beyond it 0.75 count."""
    bracket, at, probed = Bracket(), first, []
    while not bracket.closed:
        probed.append(at)
        bracket.holds(at, 0.5 - at) if at <= 0 else bracket.breaks(at, (at - 0.5) / 0.75)
        at = bracket.next_place()
    assert probed == probes


def test_what_runs_say_counts_less_where_it_hardly_falls_on_the_way() -> None:
    """At 0 a run says 7 places are left, at 7 still 4: 3 / 7 of a place for each, 0.7 at least,
    so 5.7 are left, rounded."""
    bracket = Bracket()
    bracket.holds(0, 7.0)
    assert bracket.next_place() == 7
    bracket.holds(7, 4.0)
    assert bracket.next_place() == 13


def test_the_headroom_of_a_queue_worked_by_hand(engine: Engine) -> None:
    """One sequence at a time, of one token in and 50 out: 50 steps of 0.0102 s. Ten come at 0.4 s from one
    another, so the last comes at 3.6 s and is served at 4.59 s. At a rate f times as high it comes at 3.6 / f
    and is served then, too: it waits 2.5 s where f is 3.6 / 2.09."""
    ones = np.ones(10, np.int64)
    traffic = Workload("even", 0.4 * np.arange(10.0), ones, 50 * ones)
    records = engine.run(traffic, Fleet(tables(), EngineLimits(1, 64, 100)))
    assert records.scheduled_s[-1] == pytest.approx(4.59)
    asked = LateTargets(queue_delay_s=2.5, max_late_queue_delay=0)
    assert headroom(records, asked) == pytest.approx(3.6 / 2.09)


def test_what_a_run_lets_hope_for_is_less_as_short_queues_join(engine: Engine) -> None:
    """That last request waits 0.99 of 1.3 s: of its own queue's room 0.75 * 0.99 / 1.3 counts."""
    ones = np.ones(10, np.int64)
    traffic = Workload("even", 0.4 * np.arange(10.0), ones, 50 * ones)
    records = engine.run(traffic, Fleet(tables(), EngineLimits(1, 64, 100)))
    asked = LateTargets(queue_delay_s=1.3, max_late_queue_delay=0)
    alone = log(headroom(records, asked))
    assert log(likely_headroom(records, asked)) == pytest.approx(alone * 0.75 * 0.99 / 1.3)


def test_the_headroom_is_that_of_the_worst_of_several_replicas(engine: Engine) -> None:
    ones = np.ones(20, np.int64)
    traffic = Workload("pairs", np.repeat(0.4 * np.arange(10.0), 2), ones, 50 * ones)
    records = engine.run(traffic, Fleet(tables(), EngineLimits(1, 64, 100), replicas=2))
    asked = LateTargets(queue_delay_s=2.5, max_late_queue_delay=1)
    assert headroom(records, asked) == pytest.approx(3.6 / 2.09)


@pytest.mark.parametrize(("longest", "replicas", "stages"), [(40, 1, 1), (100, 3, 1), (60, 1, 2)])
def test_what_is_known_of_a_twin_changes_no_answer(
    engine: Engine, longest: int, replicas: int, stages: int
) -> None:
    """Byte for byte that of a search which knows nothing; of many pairs some are twins."""
    judge, times = Judge(workload(longest), (TTFT,), engine), tables(stages)
    grid = list(product(TOKENS, BLOCKS, SEQUENCES))
    alone = {
        key: searched(judge, Fleet(times, EngineLimits(key[2], key[0], key[1]), replicas))
        for key in grid
    }
    twins = 0
    for one, other in [*pairwise(grid), *pairwise(sorted(grid, key=itemgetter(0, 2, 1)))]:
        known = Known(alone[one].fleet, alone[one].found)
        mine, expected = searched(judge, alone[other].fleet, known), alone[other]
        assert mine.told == expected.told
        peak = known.capacity.peak
        if peak and are_twins(known.fleet, mine.fleet, peak, judge.workload):
            twins += 1
            assert mine.found.probes <= 1
    assert twins >= 3


class Searched(NamedTuple):
    fleet: Fleet
    found: Capacity
    told: tuple[object, ...]


def searched(judge: Judge, fleet: Fleet, known: Known | None = None) -> Searched:
    upper = fleet.replicas * max_rate_per_s(judge.workload, fleet.tables, fleet.limits)
    found = find_capacity(judge, fleet, upper, 0.5 * upper, known)
    assert isinstance(found, Capacity)
    run = judge.records(fleet, found.rate_per_s)
    assert isinstance(run, Records)
    return Searched(fleet, found, (found.rate_per_s, found.breaks, summarise(run)))


def test_limits_that_were_reached_make_no_twins() -> None:
    traffic, times = workload(40), tables()
    small, large = EngineLimits(8, 64, 400), EngineLimits(16, 64, 400)
    one, other = Fleet(times, small), Fleet(times, large)
    assert are_twins(one, other, Peak(running=7, tokens=64, kv_blocks=400), traffic)
    assert not are_twins(one, other, Peak(running=8, tokens=64, kv_blocks=400), traffic)
    fewer = Fleet(times, replace(small, kv_blocks=300))
    assert are_twins(one, fewer, Peak(running=8, tokens=64, kv_blocks=290), traffic)
    assert not are_twins(one, fewer, Peak(running=8, tokens=64, kv_blocks=296), traffic)


@pytest.mark.parametrize(
    "other",
    [
        {"policy": "shortest_prompt_first"},
        {"router": "random"},
        {"replicas": 2},
        {"tables": tables()},
    ],
)
def test_what_differs_in_more_than_limits_is_no_twin(other: dict[str, object]) -> None:
    one = Fleet(tables(), EngineLimits(8, 64, 400))
    assert not are_twins(one, replace(one, **other), Peak(), workload(40))  # type: ignore[arg-type]
