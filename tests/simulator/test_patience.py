"""Clients that give up waiting, and queues that are full: by hand, and equal to the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_cases import check_invariants, impatient_case, tables_of, workload_of
from test_engine import assert_equal, times

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.reference.reference import simulate_reference
from servecast.simulator.traffic.workload import Workload

ONE_AT_A_TIME = EngineLimits(max_num_seqs=1, max_batched_tokens=16, kv_blocks=1000)


def run(workload: Workload, **limits: float) -> Records:
    """One request at a time, one second a token."""
    asked = replace(ONE_AT_A_TIME, **limits)
    return simulate(workload, Fleet(tables_of(), asked), compiled=False)


def test_every_time_and_every_loss_equals_the_reference() -> None:
    compiled, interpreted = Engine(), Engine(compiled=False)
    lost = 0
    for seed in range(300):
        workload, fleet = impatient_case(seed)
        reference = simulate_reference(workload, fleet)
        for engine in (compiled, interpreted) if seed % 5 == 0 else (compiled,):
            records = engine.run(workload, fleet)
            assert_equal(records, reference)
            check_invariants(records)
        lost += any(request.gone for request in reference.requests if request)
    assert lost > 150


def test_who_waits_too_long_gives_up_and_the_next_is_served() -> None:
    """A has the place 0-5. B waits since 1 and gives up after three seconds, C since 3 and is served 5-6."""
    records = run(workload_of((0, 5, 1), (1, 1, 1), (3, 1, 1)), queue_timeout_s=3)
    assert records.rejected.tolist() == [False, True, False]
    assert times(records) == [[5], [], [6]]


def test_a_request_is_served_in_the_last_moment_of_its_patience() -> None:
    assert not run(workload_of((0, 5, 1), (2, 1, 1)), queue_timeout_s=3).rejected.any()


def test_a_preempted_request_has_an_answer_to_wait_for() -> None:
    """Five blocks of one token: B goes at 4, after its first token, and comes back at 6."""
    limits = {"kv_blocks": 5, "block_tokens": 1, "max_num_seqs": 8, "queue_timeout_s": 0}
    records = run(workload_of((0, 2, 3), (0, 2, 2)), **limits)
    assert records.preemptions.tolist() == [0, 1]
    assert not records.rejected.any()


def test_an_arrival_that_finds_the_queue_full_is_turned_away() -> None:
    """A has the place 0-5, B waits. C finds it waiting, and D at 5, too: arrivals come before batches."""
    records = run(workload_of((0, 5, 1), (1, 1, 1), (2, 1, 1), (5, 1, 1)), max_queue=1)
    assert records.rejected.tolist() == [False, False, True, True]
    later = run(workload_of((0, 5, 1), (1, 1, 1), (2, 1, 1), (5.5, 1, 1)), max_queue=1)
    assert later.rejected.tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["max_queue", "queue_timeout_s"])
def test_what_cannot_be_combined_is_refused_by_both_names(name: str) -> None:
    limits = replace(ONE_AT_A_TIME, **{name: 1})
    workload = workload_of((0, 1, 1))
    counting = Fleet(tables_of(), limits, replicas=2, router="least_outstanding")
    with pytest.raises(UserError, match=rf"^{name} with router 'least_outstanding': it counts"):
        simulate(workload, counting, compiled=False)
    with pytest.raises(UserError, match=rf"^{name} with concurrency 2: its clients wait for an"):
        Engine(compiled=False).run(workload, Fleet(tables_of(), limits), concurrency=2)
    with pytest.raises(UserError, match=rf"^{name} with policy 'orca': it is for orders of serv"):
        simulate(workload, Fleet(tables_of(), limits, policy="orca"), compiled=False)


def test_limits_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"^max_queue must be at least 1, got 0$"):
        run(workload_of((0, 1, 1)), max_queue=0)
    with pytest.raises(UserError, match=r"^queue_timeout_s must be 0 or more, got -1$"):
        run(workload_of((0, 1, 1)), queue_timeout_s=-1)
