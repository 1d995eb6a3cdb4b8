"""Functions of the user's that pick who is admitted: the same run through every door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from engine_cases import random_case, same, same_outcome, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.picks import PICKS, highest_response_ratio_next
from servecast.simulator.engine.routing import Engine, Fleet

LIMITS = EngineLimits(max_num_seqs=1, max_batched_tokens=16, kv_blocks=100, block_tokens=1)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def pick_with(monkeypatch: pytest.MonkeyPatch, pick: Any) -> Fleet:
    monkeypatch.setitem(PICKS, "tried", pick)
    return Fleet(tables_of(), LIMITS, policy="tried")


def test_a_plain_function_and_the_same_one_compiled_give_the_same_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PICKS, "plain", highest_response_ratio_next.py_func)
    interpreted, unlike_fcfs = Engine(compiled=False), 0
    for seed in range(60):
        workload, fleet = random_case(seed)
        first = engine.run(workload, replace(fleet, policy="vllm_v1")).copy()
        runs = [engine.run(workload, replace(fleet, policy=p)).copy() for p in ("hrrn", "plain")]
        assert same(*runs)
        assert same_outcome(runs[0], interpreted.run(workload, replace(fleet, policy="hrrn")))
        unlike_fcfs += not same_outcome(runs[0], first)
    assert unlike_fcfs > 20


def test_the_one_that_waited_longest_for_its_length_goes_first(engine: Engine) -> None:
    """A until 6. Then B has waited 5 for 2 tokens, C 4 for 1, D 6 for 8: C; at 7 B, at 9 D."""
    fleet = Fleet(tables_of(), LIMITS, policy="hrrn")
    workload = workload_of((0, 6, 1), (0, 8, 1), (1, 2, 1), (2, 1, 1))
    assert engine.run(workload, fleet).scheduled_s.tolist() == [0, 9, 7, 6]


def test_a_pick_sees_clients(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def highest_client(waiting: Any, requests: Any, now_s: float) -> int:
        return int(np.argmax(requests.client[waiting]))

    fleet = pick_with(monkeypatch, highest_client)
    workload = workload_of((0, 4, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    workload = replace(workload, client=np.array([0, 2, 1, 3]))
    assert engine.run(workload, fleet).scheduled_s.tolist() == [0, 5, 6, 4]


def test_a_pick_is_asked_only_where_there_is_a_choice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A's ten steps have no place for another. At 10 B and C wait, at 11 one."""
    asked: list[float] = []

    def pick(waiting: Any, requests: Any, now_s: float) -> int:
        asked.append(now_s)
        return 0

    workload = workload_of((0, 1, 10), (1, 1, 1), (2, 1, 1))
    engine.run(workload, pick_with(monkeypatch, pick))
    assert asked == [10.0]


@pytest.mark.parametrize("compiled", [True, False])
def test_what_a_pick_raises_ends_the_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    def broken(waiting: Any, requests: Any, now_s: float) -> int:
        raise ZeroDivisionError("of the user's")

    run = engine.run if compiled else Engine(compiled=False).run
    with pytest.raises(ZeroDivisionError, match=r"^of the user's$"):
        run(workload_of((0, 4, 1), (1, 1, 1), (1, 1, 1)), pick_with(monkeypatch, broken))


@pytest.mark.parametrize("jitted", [True, False])
def test_a_place_where_nobody_waits_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, jitted: bool
) -> None:
    def beyond(waiting: Any, requests: Any, now_s: float) -> int:
        return 2

    fleet = pick_with(monkeypatch, numba.njit(beyond) if jitted else beyond)
    with pytest.raises(
        UserError, match=r"picked a place that nobody|pick returned 2, and 2 requests"
    ):
        engine.run(workload_of((0, 4, 1), (1, 1, 1), (1, 1, 1)), fleet)


def test_no_door_shows_an_output_length(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheat(waiting: Any, requests: Any, now_s: float) -> int:
        return int(requests.remaining[waiting[0]])

    workload = workload_of((0, 4, 1), (1, 1, 1), (1, 1, 1))
    with pytest.raises(AttributeError, match="remaining"):
        engine.run(workload, pick_with(monkeypatch, cheat))
    with pytest.raises(AttributeError, match="remaining"):
        Engine(compiled=False).run(workload, pick_with(monkeypatch, cheat))
    with pytest.raises(numba.TypingError, match="remaining"):
        engine.run(workload, pick_with(monkeypatch, numba.njit(cheat)))
