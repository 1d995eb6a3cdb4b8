"""Ranks in lock step, sessions, clients that leave, lost nodes and autoscaling: by hand, and by law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_cases import check_invariants, prefix_case, random_case, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.lifecycle import (
    Autoscaling,
    NodeLoss,
    parse_autoscaling,
    parse_loss,
)
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.patience import Leaving, Turns, parse_leaving
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.traffic.workload import Workload

LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=16, kv_blocks=100, block_tokens=1)


def run(
    workload: Workload, replicas: int = 1, router: str = "round_robin", **modes: Any
) -> Records:
    """One second a token of the batch."""
    fleet = Fleet(tables_of(), LIMITS, replicas, router, modes=Modes(**modes))
    return simulate(workload, fleet)


def times(records: Records) -> list[list[float]]:
    return [each.tolist() for each in records.token_times()]


def test_ranks_in_lock_step_take_the_slowest_ones_time() -> None:
    """A's five tokens and B's two take five; then each decodes beside the other, C's rank joins at 6."""
    records = run(workload_of((0, 5, 2), (0, 2, 2), (5.5, 3, 1)), 2, lock_step=2)
    assert times(records) == [[5, 6], [5, 6], [9]]
    assert records.modes["lock_step"] == {"dummy_batches": 1}


def test_a_rank_without_work_runs_a_dummy_as_long_as_one_token() -> None:
    """A prompt of half a token's time cannot be: one token takes one second, and so does the dummy."""
    tables = tables_of()
    slow = replace(tables, sequence_s=np.where(np.arange(33) == 1, 7.0, 0.0)[None])
    fleet = Fleet(slow, LIMITS, 2, modes=Modes(lock_step=2))
    assert times(simulate(workload_of((0, 2, 1)), fleet)) == [[9]]
    fleet = Fleet(tables, LIMITS, 2, modes=Modes(lock_step=2))
    assert times(simulate(workload_of((0, 2, 1)), fleet)) == [[2]]


def test_experts_that_ranks_share_have_the_mean_of_their_tokens() -> None:
    """A second a token, half of it the experts': five tokens beside one take 2.5 and, for a mean of three,
    1.5 more; then one token each takes one second.
    """
    shared_s = np.stack([np.arange(65.0) / 2, np.zeros(65)])[None]
    fleet = Fleet(replace(tables_of(), shared_s=shared_s), LIMITS, 2, modes=Modes(lock_step=2))
    assert times(simulate(workload_of((0, 5, 2), (0, 1, 2)), fleet)) == [[4, 5], [4, 5]]


def test_rows_that_ranks_exchange_take_the_busiest_links_time() -> None:
    """Half of a second a token is the exchange: with two ranks five tokens beside one go over the same link
    as five beside five. With three the busiest link has five and one of the others: as three each.
    """
    shared_s = np.stack([np.zeros(65), np.arange(65.0) / 2])[None]
    tables, steps = replace(tables_of(), shared_s=shared_s), workload_of((0, 5, 2), (0, 1, 2))
    fleet = Fleet(tables, LIMITS, 2, modes=Modes(lock_step=2))
    assert times(simulate(steps, fleet)) == [[5, 6], [5, 6]]
    fleet = Fleet(tables, LIMITS, 3, modes=Modes(lock_step=3))
    steps = workload_of((0, 5, 2), (0, 1, 2), (0, 1, 2))
    assert times(simulate(steps, fleet)) == [[4, 5], [4, 5], [4, 5]]


def test_vllms_balancer_counts_four_for_a_request_that_it_has_just_sent() -> None:
    """At 4 rank 0 runs three, of rank 1's two are done and F alone runs on. So G goes there, and H, which
    comes before the ranks are heard again, to rank 0, whose three are less than F and the four of G.
    """
    first = [(0, 1, 5), (0, 1, 1), (0, 1, 5), (0, 1, 1), (0, 1, 5), (0, 1, 5)]
    later = [(4.5, 1, 1), (4.6, 1, 1)]
    records = run(workload_of(*first, *later), 2, "vllm_ranks", lock_step=2)
    assert records.replica.tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    known = run(workload_of(*first, *later), 2, "least_outstanding", lock_step=2)
    assert known.replica.tolist()[-2:] == [1, 1]
    deaf = run(workload_of(*first, *later), 2, "vllm_ranks:message_s=9", lock_step=2)
    assert deaf.replica.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_vllms_balancer_is_for_ranks_in_lock_step() -> None:
    with pytest.raises(UserError, match="'vllm_ranks' is for ranks in lock step: give --lock-step"):
        run(workload_of((0, 1, 1)), 2, "vllm_ranks")


def test_ranks_that_replay_a_graph_replay_the_largest_ones() -> None:
    """As where experts are shared, but five tokens are captured: the rank with one token has five, too."""
    shared_s = np.stack([np.arange(65.0) / 2, np.zeros(65)])[None]
    tables = replace(tables_of(), shared_s=shared_s, graph_tokens=5)
    fleet = Fleet(tables, LIMITS, 2, modes=Modes(lock_step=2))
    assert times(simulate(workload_of((0, 5, 2), (0, 1, 2)), fleet)) == [[5, 6], [5, 6]]


def test_an_arrival_waits_for_the_other_ranks_step() -> None:
    """A runs 0-5; B, alone on its rank, comes at 1 and starts at 5."""
    records = run(workload_of((0, 5, 1), (1, 1, 1)), 2, lock_step=2)
    assert times(records) == [[5], [6]]
    apart = run(workload_of((0, 5, 1), (1, 1, 1)), 2, ramp_s=0.0, leaving=Leaving(timeout_s=99))
    assert times(apart) == [[5], [2]]


def ahead(workload: Workload, **tables: Any) -> Records:
    """Two ranks that form a batch when the one before starts."""
    limits = replace(LIMITS, async_scheduling=True)
    return simulate(workload, Fleet(tables_of(**tables), limits, 2, modes=Modes(lock_step=2)))


def test_ranks_that_schedule_ahead_form_the_next_step_when_one_starts() -> None:
    """0-5 A and B's prompts. Step 5-6, their last tokens, was formed at 0. C came at 4 and is in what is
    formed at 5, 6-9; scheduled synchronously it is in 5-9, beside A's last token."""
    workload = workload_of((0, 5, 2), (0, 2, 2), (4, 3, 1))
    assert times(ahead(workload)) == [[5, 6], [5, 6], [9]]
    assert times(run(workload, 2, lock_step=2)) == [[5, 9], [5, 9], [9]]


def test_a_rank_without_work_is_bound_to_the_step_that_was_formed_ahead() -> None:
    """B comes to the other rank at 1: step 5-6 was formed at 0, the one at 5 has it, 6-7. Two dummies."""
    records = ahead(workload_of((0, 5, 3), (1, 1, 1)))
    assert times(records) == [[5, 6, 7], [7]]
    assert records.modes["lock_step"] == {"dummy_batches": 2}


def test_the_host_works_while_ranks_run_a_step() -> None:
    """Half a second of it between steps: hidden where the next one was formed ahead, by an idle rank, too."""
    workload = workload_of((0, 5, 3), (1, 1, 1))
    assert times(ahead(workload, host_step_s=0.5)) == [[5, 6, 7], [7]]


def test_ranks_with_equal_requests_do_what_one_engine_alone_does() -> None:
    """The compiled engine says what: every request comes twice, once for each rank."""
    engine = Engine()
    for seed in range(60):
        workload, fleet = (prefix_case if seed % 2 else random_case)(seed, 1)
        limits = replace(fleet.limits, async_scheduling=seed % 4 < 2)
        alone = Fleet(fleet.tables, limits)
        expected = times(engine.run(workload, alone))
        twice = workload.take(np.repeat(np.arange(len(workload)), 2), workload.arrival_s.repeat(2))
        ranks = replace(alone, replicas=2, modes=Modes(lock_step=2))
        records = engine.run(twice, ranks)
        assert times(records) == [each for each in expected for _ in range(2)]
        assert records.modes["lock_step"] == {"dummy_batches": 0}


def test_steps_of_ranks_start_and_end_together() -> None:
    for seed in range(40):
        workload, fleet = random_case(seed, 1)
        fleet = replace(fleet, replicas=4, modes=Modes(lock_step=2))
        records = simulate(workload, fleet)
        check_invariants(records)
        for first in (0, 2):
            steps = records.steps[(records.lane >= first) & (records.lane < first + 2)]
            ends = {
                start: set(steps["end_s"][steps["start_s"] == start]) for start in steps["start_s"]
            }
            assert all(len(each) == 1 for each in ends.values())


def turns_of(*rows: tuple[float, int, int], session: list[int]) -> Workload:
    return replace(workload_of(*rows), session=np.array(session))


def test_a_turn_comes_a_think_time_after_the_answer_and_finds_its_prefix() -> None:
    """0-4: the first turn; 3 tokens of KV and the fourth's own. Turn two at 6 has 3 of its 6 cached: 6-9."""
    workload = turns_of((0, 3, 2), (1, 6, 1), session=[0, 0])
    records = run(workload, turns=Turns(think_s=2, cv=0))
    assert times(records) == [[3, 4], [8]]
    assert records.arrival_s.tolist() == [0, 6]
    assert records.prefix_hit_tokens is not None
    assert records.prefix_hit_tokens.tolist() == [0, 4]


def test_turns_of_different_sessions_are_served_in_the_order_in_which_they_come() -> None:
    """B is second in the trace but comes before A's next turn; C is A's, at 3."""
    workload = turns_of((0, 1, 1), (0, 1, 1), (0, 1, 1), session=[0, 0, 1])
    records = run(workload, turns=Turns(think_s=1, cv=0))
    assert records.arrival_s.tolist() == [0, 3, 0]
    assert times(records) == [[2], [4], [2]]


def test_who_came_first_goes_first_whatever_the_trace_says() -> None:
    """One at a time: A 0-1, B 1-6. C waits since 3, A's next turn since 5."""
    workload = turns_of((0, 1, 1), (0.2, 1, 1), (0.5, 5, 1), (3, 1, 1), session=[0, 0, 1, 2])
    modes = Modes(turns=Turns(think_s=4, cv=0))
    fleet = Fleet(tables_of(), replace(LIMITS, max_num_seqs=1, prefix_caching=False), modes=modes)
    assert times(simulate(workload, fleet)) == [[1], [8], [6], [7]]


def test_think_times_are_drawn_with_the_mean_and_variation_that_were_asked_for() -> None:
    drawn = Turns(think_s=4, cv=0.5).before_s(20_000)
    assert drawn.mean() == pytest.approx(4, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.03)


def test_a_session_ends_with_a_turn_that_is_not_answered() -> None:
    workload = turns_of((0, 9, 9), (1, 1, 1), (2, 1, 1), session=[0, 0, 0])
    records = run(workload, turns=Turns(0, 0), leaving=Leaving(timeout_s=10))
    assert records.rejected.all()
    assert records.requests["gone"].tolist() == [3, 5, 5]


def test_who_leaves_frees_its_place_at_the_end_of_the_step() -> None:
    """A and B decode, two seconds a step, from 4. A leaves at 7: the step 6-8 still has it, 8-9 not."""
    workload = workload_of((0, 2, 9), (1, 2, 3))
    records = run(workload, leaving=Leaving(timeout_s=7))
    assert times(records) == [[], [5, 7, 8]]
    assert records.rejected.tolist() == [True, False]


def test_who_waits_in_the_queue_leaves_it() -> None:
    """Shortest first, one at a time: 0-4 and 4-8 two short ones; who came at 0 with five leaves at 7."""
    leaving = Modes(leaving=Leaving(timeout_s=7))
    limits = replace(LIMITS, max_num_seqs=1)
    fleet = Fleet(tables_of(), limits, policy="shortest_prompt_first", modes=leaving)
    records = simulate(workload_of((0, 4, 1), (0, 5, 1), (3, 4, 1), (7.5, 1, 1)), fleet)
    assert times(records) == [[4], [], [8], [9]]


def test_a_share_of_clients_leaves() -> None:
    leaves = Leaving(share=0.3, mean_s=2).after_s(20_000)
    assert np.isfinite(leaves).mean() == pytest.approx(0.3, abs=0.02)
    assert leaves[np.isfinite(leaves)].mean() == pytest.approx(2, rel=0.05)


def test_low_classes_are_turned_away_first() -> None:
    """One place, one waits from 1. At 2 a class that takes one waiting is let in, at 3 the other is not."""
    limits = replace(LIMITS, max_num_seqs=1)
    workload = workload_of((0, 9, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1))
    workload = replace(workload, priority=np.array([1, 1, 0, 1]))
    fleet = Fleet(tables_of(), limits, modes=Modes(class_queues=(3, 1)))
    assert simulate(workload, fleet).rejected.tolist() == [False, False, False, True]


@pytest.mark.parametrize("retry", [True, False])
def test_a_lost_replica_has_its_requests_sent_to_another_or_failed(retry: bool) -> None:
    """A is at the first replica, with tokens at 2 and 3; that is lost at 3.5. At the other A computes its
    prompt and both tokens again beside B's token, 4-9."""
    workload = workload_of((0, 2, 4), (0, 2, 9))
    records = run(workload, 2, losses=(NodeLoss(0, 3.5, 100),), retry=retry)
    assert times(records)[0] == ([2, 3, 9, 11] if retry else [])
    assert records.requests["gone"].tolist() == [0 if retry else 4, 0]
    assert records.modes["losses"] == {"retried": int(retry), "lost": int(not retry)}


def test_requests_wait_for_the_only_replica_to_come_back_with_empty_caches() -> None:
    """Lost at 1 in the prompt 0-3, back at 5: 5-8. B came at 2 and begins beside it."""
    records = run(workload_of((0, 3, 1), (2, 1, 1)), losses=(NodeLoss(0, 1, 4),))
    assert times(records) == [[9], [9]]
    assert records.replica.tolist() == [0, 0]


def test_a_fleet_grows_after_the_provisioning_delay_and_shrinks_when_few_are_enough() -> None:
    """Four requests out at 0 want two replicas; the second comes at 5, and takes what comes then. At 40 one
    has been enough for 10 s."""
    scaling = Autoscaling(most=2, target=2, interval_s=1, provision_s=5, hold_s=10)
    workload = workload_of(*[(0.5, 4, 1)] * 4, (6, 2, 1), (60, 1, 1))
    records = run(workload, 2, "least_outstanding", scaling=scaling)
    assert records.replica.tolist() == [0, 0, 0, 0, 1, 0]
    sizes = [(each["at_s"], each["replicas"]) for each in records.modes["scaling"]["sizes"]]
    assert sizes[:2] == [(0, 1), (6, 2)]
    assert sizes[2][1] == 1
    paid_s = records.modes["scaling"]["replica_hours"] * 3600
    assert paid_s == pytest.approx(61 + sizes[2][0] - 1)


def test_everything_at_once_keeps_the_invariants() -> None:
    for seed in range(60):
        workload, fleet = (prefix_case if seed % 2 else random_case)(seed)
        limits = replace(fleet.limits, async_scheduling=False)
        modes = Modes(
            leaving=Leaving(timeout_s=150, share=0.2, mean_s=20) if seed % 3 else None,
            losses=(NodeLoss(0, 5, 10), NodeLoss(fleet.replicas - 1, 30, 40)),
            retry=seed % 4 > 0,
            scaling=Autoscaling(fleet.replicas, target=4, provision_s=7, hold_s=9, interval_s=3)
            if seed % 5 == 0
            else None,
            class_queues=(5, 2) if seed % 2 else (),
            blocking_sends=seed % 7 == 0,
        )
        fleet = replace(fleet, limits=limits, modes=modes)
        records = simulate(workload, fleet)
        served = ~records.rejected
        assert np.array_equal(records.finished, served)
        for each, tokens in zip(records.token_times(), records.output_tokens, strict=True):
            assert len(each) in (0, tokens)
            assert (np.diff(each) >= 0).all()


def test_modes_that_change_nothing_give_the_compiled_engines_times() -> None:
    """A client that never leaves puts the run on the specification."""
    engine = Engine()
    for seed in range(40):
        workload, fleet = random_case(seed)
        same = replace(fleet, modes=Modes(leaving=Leaving(timeout_s=1e9)))
        assert times(engine.run(workload, same)) == times(engine.run(workload, fleet))


def test_sends_that_block_keep_a_stage_busy() -> None:
    """Two stages of one second a token, half a second between: A 0-1, 1.5-2.5; B 1-2, or from 1.5."""
    tables = replace(tables_of(2), send_s=np.full((2, 65), 0.5))
    limits = replace(LIMITS, max_num_seqs=1)
    workload = workload_of((0, 1, 1), (0.5, 1, 1))
    ends = []
    for blocking in (False, True):
        modes = Modes(blocking_sends=blocking, leaving=Leaving(timeout_s=99))
        records = simulate(workload, Fleet(tables, replace(limits, max_num_seqs=2), modes=modes))
        ends.append(times(records))
    assert ends == [[[2.5], [3.5]], [[2.5], [4.0]]]


def test_clients_ramp_up() -> None:
    fleet = Fleet(tables_of(), LIMITS, modes=Modes(ramp_s=8))
    records = Engine().run(workload_of(*[(0, 1, 1)] * 5), fleet, concurrency=4)
    assert records.arrival_s.tolist() == [0, 2, 4, 6, 1]


def test_what_cannot_be_combined_is_refused_by_both_names() -> None:
    workload = workload_of((0, 1, 1))
    cases = {
        r"^lock_step with 2 pipeline stages": Fleet(
            tables_of(2), LIMITS, 2, modes=Modes(lock_step=2)
        ),
        r"^lock_step 2 with 3 ranks": Fleet(tables_of(), LIMITS, 3, modes=Modes(lock_step=2)),
        r"^scaling to 3 replicas with replicas 1": Fleet(
            tables_of(), LIMITS, modes=Modes(scaling=Autoscaling(3))
        ),
        r"^losses with lock_step 2": Fleet(
            tables_of(), LIMITS, 2, modes=Modes(lock_step=2, losses=(NodeLoss(0, 1, 1),))
        ),
        r"^replica 4 cannot be lost: there is replica 0 alone$": Fleet(
            tables_of(), LIMITS, modes=Modes(losses=(NodeLoss(4, 1, 1),))
        ),
        r"^replica 4 cannot be lost: they are 0 to 2$": Fleet(
            tables_of(), LIMITS, 3, modes=Modes(losses=(NodeLoss(4, 1, 1),))
        ),
        r"^rows: class_queues need a trace with": Fleet(
            tables_of(), LIMITS, modes=Modes(class_queues=(1,))
        ),
        r"^rows: turns need a trace with the session": Fleet(
            tables_of(), LIMITS, modes=Modes(turns=Turns())
        ),
        r"^policy 'orca' with blocking_sends: these modes": Fleet(
            tables_of(), LIMITS, policy="orca", modes=Modes(blocking_sends=True)
        ),
        r"^ramp_s without concurrency": Fleet(tables_of(), LIMITS, modes=Modes(ramp_s=1)),
        r"^turns with policy 'sjf'": Fleet(
            tables_of(), LIMITS, policy="shortest_prompt_first", modes=Modes(turns=Turns())
        ),
    }
    for message, fleet in cases.items():
        with pytest.raises(UserError, match=message.replace("'sjf'", "'shortest_prompt_first'")):
            simulate(workload, fleet)


def test_clients_of_several_replicas_under_a_class_policy_are_refused_by_name() -> None:
    fleet = Fleet(tables_of(), LIMITS, 2, policy="orca")
    with pytest.raises(UserError, match=r"^policy 'orca' with clients of 2 replicas: these modes"):
        Engine().run(workload_of((0, 1, 1)), fleet, concurrency=2)


def test_modes_are_read_from_text() -> None:
    assert parse_loss("1@120+60") == NodeLoss(1, 120, 60)
    assert parse_leaving("share=0.1,mean=5") == Leaving(share=0.1, mean_s=5)
    assert parse_autoscaling("most=4,target=8,provision=60") == Autoscaling(4, 1, 8, 15, 60, 300)
    with pytest.raises(
        UserError, match=r"^lost replica '0@5': write replica@seconds\+seconds down"
    ):
        parse_loss("0@5")
    with pytest.raises(UserError, match=r"^autoscaling 'least=2': say most="):
        parse_autoscaling("least=2")
    with pytest.raises(UserError, match=r"^autoscaling from 3 to 2 replicas"):
        parse_autoscaling("most=2,least=3")
    with pytest.raises(UserError, match=r"^the share of clients that leave must be from 0 to 1"):
        parse_leaving("share=2")
