"""Functions of the user's that decide: the same run through every door, and as the reference has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from engine_cases import (
    check_invariants,
    random_case,
    same,
    same_as_reference,
    same_outcome,
    tables_of,
    workload_of,
)

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.orders import ORDERS
from servecast.simulator.engine.picks import BUDGETS, PICKS, VICTIMS, highest_response_ratio_next
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.reference.reference import simulate_reference

DOORS = {"pick": PICKS, "victim": VICTIMS, "budget": BUDGETS}
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


def shortest(running: Any, requests: Any, now_s: float) -> int:
    """The one with the least to compute again; of equals, the one that came first."""
    best = 0
    for place in range(1, len(running)):
        i, j = running[place], running[best]
        if (requests.prompt[i], i) < (requests.prompt[j], j):
            best = place
    return best


def a_few(decodes: int, cached: int, waiting: int, now_s: float) -> int:
    """Less for prompts the more the decodes have cached; more the more wait."""
    return decodes + 6 - cached % 7 + 2 * waiting


@pytest.mark.parametrize("doors", [("victim",), ("budget",), ("pick", "victim", "budget")])
def test_every_decision_equals_the_reference_through_every_door(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, doors: tuple[str, ...]
) -> None:
    functions = {"pick": highest_response_ratio_next.py_func, "victim": shortest, "budget": a_few}
    for door in doors:
        monkeypatch.setitem(DOORS[door], "plain", functions[door])
        monkeypatch.setitem(DOORS[door], "jitted", numba.njit(functions[door]))
    interpreted, other = Engine(compiled=False), 0
    for seed in range(150):
        workload, fleet = random_case(seed)
        plain, jitted = (replace(fleet, policy=name) for name in ("plain", "jitted"))
        records = engine.run(workload, jitted).copy()
        reference = simulate_reference(workload, jitted)
        assert same_as_reference(records, reference)
        check_invariants(records)
        if seed % 5 == 0:
            assert same(records, engine.run(workload, plain))
            assert same_outcome(records, interpreted.run(workload, jitted))
            without = replace(fleet, policy="hrrn" if "pick" in doors else "vllm_v1")
            other += not same_outcome(records, engine.run(workload, without))
    assert other > 5


def test_a_victim_is_the_one_that_the_function_names(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A and B have 4 and 2 blocks of 8. Two tokens on none is free: by default B goes; here A would."""
    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=16, kv_blocks=8, block_tokens=1)
    workload, tables = workload_of((0, 4, 4), (0, 2, 4)), tables_of()
    monkeypatch.setitem(VICTIMS, "first", lambda running, requests, now_s: int(np.argmin(running)))
    latest = engine.run(workload, Fleet(tables, limits)).preemptions.tolist()
    first = engine.run(workload, Fleet(tables, limits, policy="first")).preemptions.tolist()
    assert (latest, first) == ([0, 1], [1, 0])


def test_a_budget_is_asked_beside_prompts_and_holds_for_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A's prompt takes 4 alone. B's 8, which come at 1, go in chunks of 3 beside A's decodes."""
    asked: list[tuple[int, int, int]] = []

    def gentle(decodes: int, cached: int, waiting: int, now_s: float) -> int:
        asked.append((decodes, cached, waiting))
        return 100 if decodes == 0 else decodes + 3

    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=16, kv_blocks=100, block_tokens=1)
    monkeypatch.setitem(BUDGETS, "gentle", gentle)
    run = engine.run(workload_of((0, 4, 6), (1, 8, 1)), Fleet(tables_of(), limits, policy="gentle"))
    assert run.tokens.tolist() == [4, 4, 4, 3, 1, 1]
    assert asked == [(0, 0, 1), (1, 4, 1), (1, 5, 0), (1, 6, 0)]


def test_an_order_and_functions_of_one_name_are_one_policy(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shortest prompts go first, and the function sees two of them run."""
    monkeypatch.setitem(ORDERS, "both", ORDERS["shortest_prompt_first"])
    monkeypatch.setitem(BUDGETS, "both", a_few)
    fleet = Fleet(tables_of(), LIMITS, policy="both")
    workload = workload_of((0, 6, 1), (0, 8, 1), (1, 2, 1), (2, 1, 1))
    scheduled = engine.run(workload, fleet).scheduled_s.tolist()
    assert scheduled == [0, 9, 7, 6]
    with pytest.raises(UserError, match="no parameter 'long_prefill_threshold'; it takes none"):
        replace(fleet, policy="both:long_prefill_threshold=4")


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


@pytest.mark.parametrize("door", ["victim", "budget"])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_any_decision_raises_ends_the_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, door: str, compiled: bool
) -> None:
    def broken(*seen: Any) -> int:
        raise ZeroDivisionError("of the user's")

    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=16, kv_blocks=8, block_tokens=1)
    monkeypatch.setitem(DOORS[door], "broken", broken)
    run = engine.run if compiled else Engine(compiled=False).run
    with pytest.raises(ZeroDivisionError, match=r"^of the user's$"):
        run(workload_of((0, 4, 4), (0, 2, 4)), Fleet(tables_of(), limits, policy="broken"))
