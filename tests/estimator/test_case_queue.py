"""Cases are neither lost nor doubled, whoever takes, gives back and finishes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.agent.stopping import Flag
from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.case_queue import (
    MAX_LOSSES,
    THROTTLED_RETRIES,
    UNSTABLE_RETRIES,
    CaseQueue,
)


def case(rows: int, kernel: str = "linear") -> KernelCase:
    return KernelCase(kernel, "bf16", "", (("rows", rows),))


def anything(_: KernelCase) -> bool:
    return True


def test_cases_are_taken_in_order_and_a_lost_one_comes_first_again() -> None:
    queue = CaseQueue.of([case(1), case(2)])
    assert queue.take(anything) == case(1)
    assert queue.give_back(case(1))
    assert [queue.take(anything), queue.take(anything), queue.take(anything)] == [
        case(1),
        case(2),
        None,
    ]


def test_a_taker_gets_only_what_it_runs() -> None:
    queue = CaseQueue.of([case(1, "rope"), case(2)])
    assert queue.take(lambda c: c.kernel == "linear") == case(2)
    assert queue.left() == [case(1, "rope")]


def test_a_case_that_kills_agent_after_agent_is_given_up() -> None:
    queue = CaseQueue.of([case(1)])
    for loss in range(1, MAX_LOSSES + 1):
        assert queue.take(anything) == case(1)
        assert queue.give_back(case(1)) == (loss < MAX_LOSSES)
    assert (queue.left(), queue.taken) == ([], 1), "its taker still has to finish it"
    queue.finish(case(1))
    assert queue.taken == 0


@pytest.mark.parametrize(
    ("flags", "retries"),
    [
        ((Flag.THROTTLED,), THROTTLED_RETRIES),
        ((Flag.DRIFTING, Flag.NOT_CONVERGED), UNSTABLE_RETRIES),
        ((Flag.HEAVY_TAILED,), UNSTABLE_RETRIES),
        ((Flag.HEAVY_TAILED, Flag.THROTTLED), THROTTLED_RETRIES),
        ((Flag.NOT_CONVERGED,), 0),  # its interval says how wide it is
        ((), 0),
    ],
)
def test_a_case_not_to_be_trusted_is_tried_again_after_the_others_but_not_for_ever(
    flags: tuple[Flag, ...], retries: int
) -> None:
    queue = CaseQueue.of([case(1), case(2)])
    taken = []
    while (found := queue.take(anything)) is not None:
        taken.append(dict(found.dims)["rows"])
        again = queue.wants_again(found, flags if taken[-1] == 1 else ())
        queue.finish(found, again=again)
    assert taken == [1, 2] + [1] * retries


@given(st.lists(st.sampled_from(["take", "lose", "finish"]), max_size=30))
def test_every_case_waits_or_is_taken_or_is_finished_exactly_once(moves: list[str]) -> None:
    cases = [case(rows) for rows in range(4)]
    queue = CaseQueue.of(cases)
    taken: list[KernelCase] = []
    ended: list[KernelCase] = []
    for move in moves:
        if move == "take" and (found := queue.take(anything)) is not None:
            taken.append(found)
        elif move == "lose" and taken and not queue.give_back(lost := taken.pop()):
            queue.finish(lost)
            ended.append(lost)
        elif move == "finish" and taken:
            queue.finish(taken[-1])
            ended.append(taken.pop())
        assert sorted([*queue.left(), *taken, *ended]) == cases
        assert queue.taken == len(taken)
