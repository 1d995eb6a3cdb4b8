"""What vLLM's balancer of data-parallel ranks knows, and when: seconds, and (waiting, running)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servecast.simulator.reference.coordinator import INTERVAL_S, WAITING, Coordinator, Counts

Word = tuple[float, int, Counts]
COUNTS = st.tuples(st.integers(0, 9), st.integers(0, 9))


def loads_at(now_s: float, *words: Word, message_s: float = 0.0, ranks: int = 2) -> list[int]:
    """What the balancer goes by, where it sends one more."""
    coordinator = Coordinator(ranks, message_s)
    for at_s, rank, counts in words:
        coordinator.report(rank, at_s, counts)
    chosen = coordinator.choose(range(ranks), now_s)
    coordinator.loads[chosen] -= WAITING
    return coordinator.loads


def test_a_step_is_told_after_50_ms_without_another_word() -> None:
    words = [(1.0, 0, (0, 3)), (1.0, 1, (1, 2))]
    assert loads_at(1.04, *words) == [0, 0]
    assert loads_at(1.06, *words) == [3, 6]


def test_or_when_a_rank_tells_of_a_later_step_which_is_not_told_yet() -> None:
    """Steps of 40 ms in which counts change would never be quiet."""
    words = [(1.0, 0, (0, 3)), (1.0, 1, (1, 2)), (1.04, 0, (0, 9))]
    assert loads_at(1.041, *words) == [3, 6]


def test_between_two_messages_are_100_ms() -> None:
    words = [(1.0, 0, (0, 1)), (1.04, 0, (0, 2)), (1.08, 0, (0, 3)), (1.12, 0, (0, 4))]
    assert loads_at(1.139, *words) == [1, 0]  # told at 1.04
    assert loads_at(1.141, *words) == [3, 0]  # the newest step that is complete
    assert loads_at(1.239, *words) == [3, 0]
    assert loads_at(1.241, *words) == [4, 0]


def test_a_rank_that_counts_what_it_did_before_says_nothing() -> None:
    words = [(1.0, 0, (0, 1)), (1.04, 0, (0, 1))]
    assert loads_at(1.051, *words) == [1, 0]


def test_words_take_their_time() -> None:
    assert loads_at(1.06, (1.0, 0, (0, 3)), message_s=0.02) == [0, 0]
    assert loads_at(1.08, (1.0, 0, (0, 3)), message_s=0.02) == [3, 0]


def test_a_message_replaces_what_the_balancer_has_counted_itself() -> None:
    """What it sent last is still under way, and in nobody's counts."""
    coordinator = Coordinator(2)
    assert [coordinator.choose((0, 1), at_s) for at_s in (0.98, 0.99)] == [0, 1]
    coordinator.report(0, 1.0, (0, 1))
    assert coordinator.choose((0, 1), 1.06) == 1
    assert coordinator.loads == [1, WAITING]


def test_what_does_not_change_is_told_again_after_5_s() -> None:
    coordinator = Coordinator(2)
    coordinator.report(0, 1.0, (0, 1))
    assert [coordinator.choose((0, 1), 2.0 + i / 100) for i in range(2)] == [1, 0]
    assert coordinator.choose((0, 1), 6.04) == 1
    assert coordinator.loads == [1 + WAITING, 2 * WAITING]
    assert coordinator.choose((0, 1), 6.06) == 1
    assert coordinator.loads == [1, WAITING]


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 2), COUNTS), max_size=30),
    st.floats(0, 0.2),
)
def test_in_the_end_the_balancer_knows_what_each_rank_said_last(
    said: list[Word], message_s: float
) -> None:
    said = sorted(said, key=lambda word: word[0])
    last = {rank: counts for _, rank, counts in said}
    known = loads_at(10.2 + 2 * INTERVAL_S + 0.01, *said, message_s=message_s, ranks=3)
    assert known == [WAITING * w + r for w, r in (last.get(rank, (0, 0)) for rank in range(3))]
