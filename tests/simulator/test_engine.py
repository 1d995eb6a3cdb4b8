"""The engine against its oracle, and against schedules worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import check_invariants, random_case, same, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine import run_record
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.engine.scheduling import LivelockError
from servecast.simulator.reference.reference import ReferenceRun, simulate_reference
from servecast.simulator.traffic.workload import Workload


@pytest.fixture(scope="module")
def compiled() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def interpreted() -> Engine:
    return Engine(compiled=False)


def assert_equal(records: Records, reference: ReferenceRun) -> None:
    """Every token time, step and preemption, to the last bit."""
    assert records.rejected.tolist() == [r is None or r.gone for r in reference.requests]
    for times, row, request in zip(
        records.token_times(), records.requests, reference.requests, strict=True
    ):
        assert times.tolist() == (request.token_s if request else [])
        if request:
            assert row["arrival_s"] == request.arrival_s
            np.testing.assert_equal(row["scheduled_s"], request.scheduled_s)
            assert row["preemptions"] == request.preemptions
            assert row["replica"] == request.replica
    for number in range(records.replicas):
        mine = records.steps[records.lane // records.stages == number]
        theirs = [s for s in reference.steps if s.replica == number]
        for name in ("start_s", "end_s", "tokens", "sequences", "decodes", "cached", "used_blocks"):
            assert mine[name].tolist() == [getattr(s, name) for s in theirs], name
    for name in ("tokens", "sequences", "used_blocks"):
        assert getattr(records.most, name) == max(records.steps[name], default=0)


def simulate_closed(workload: Workload, fleet: Fleet, clients: int) -> Records:
    return Engine(compiled=False).run(workload, fleet, concurrency=clients)


@pytest.mark.parametrize("block", range(10))
def test_every_time_equals_the_reference_to_the_last_bit(
    compiled: Engine, interpreted: Engine, block: int
) -> None:
    for seed in range(block * 150, block * 150 + 150):
        workload, fleet = random_case(seed)
        reference = simulate_reference(workload, fleet)
        records = compiled.run(workload, fleet)
        assert_equal(records, reference)
        check_invariants(records)
        if seed % 3 == 0:
            assert_equal(interpreted.run(workload, fleet), reference)


@pytest.mark.parametrize(("seed", "stages"), [(100097, 3), (101750, 4)])
def test_a_front_that_fits_beside_another_lane_s_more_decodes_is_not_passed_over(
    compiled: Engine, seed: int, stages: int
) -> None:
    """They leave less of the budget, so its first chunk needs fewer blocks."""
    workload, fleet = random_case(seed, stages)
    assert_equal(compiled.run(workload, fleet), simulate_reference(workload, fleet))


def test_closed_loop_clients_equal_the_reference_to_the_last_bit(
    compiled: Engine, interpreted: Engine
) -> None:
    for seed in range(300):
        workload, fleet = random_case(seed)
        fleet = replace(fleet, replicas=1)
        count, between_s = 1 + seed % 7, (0.0, 0.25, 3.0)[seed % 3]
        reference = simulate_reference(workload, fleet, count, between_s)
        records = compiled.run(workload, fleet, concurrency=count, client_s=between_s)
        assert_equal(records, reference)
        check_invariants(records)
        if seed % 3 == 0:
            again = interpreted.run(workload, fleet, concurrency=count, client_s=between_s)
            assert_equal(again, reference)


def test_loaded_prompts_equal_the_reference_to_the_last_bit(
    compiled: Engine, interpreted: Engine
) -> None:
    rng = np.random.default_rng(0)
    for seed in range(300):
        workload, fleet = random_case(seed)
        loaded = rng.integers(0, workload.prompt_tokens)
        reference = simulate_reference(workload, fleet, loaded_tokens=loaded)
        records = compiled.run(workload, fleet, loaded_tokens=loaded)
        assert_equal(records, reference)
        check_invariants(records)
        if seed % 3 == 0:
            assert_equal(interpreted.run(workload, fleet, loaded_tokens=loaded), reference)


def test_a_loaded_prefix_takes_blocks_but_no_time() -> None:
    """Six tokens, four of them loaded: 0-2, in six blocks."""
    fleet = Fleet(tables_of(), EngineLimits(8, 16, 1000, block_tokens=1))
    records = Engine(compiled=False).run(workload_of((0, 6, 1)), fleet, loaded_tokens=np.array([4]))
    assert times(records) == [[2]]
    assert records.used_blocks.tolist() == [6]


def test_a_client_sends_its_next_request_when_the_last_is_finished() -> None:
    """Two clients, one second a token: A and B 0-3, B is done; C from B's client 3-6 beside A's last."""
    fleet = Fleet(tables_of(), EngineLimits(8, 16, 1000))
    workload = workload_of((0, 1, 2), (5, 2, 1), (9, 2, 1), (9, 1, 1))
    records = Engine(compiled=False).run(workload, fleet, concurrency=2)
    assert records.arrival_s.tolist() == [0, 0, 3, 6]
    assert times(records) == [[3, 6], [3], [6], [7]]


def test_a_request_that_its_client_sends_late_misses_the_next_step() -> None:
    """As above, but C and D come half a second after A's and B's ends, to steps that have begun."""
    fleet = Fleet(tables_of(), EngineLimits(8, 16, 1000))
    workload = workload_of((0, 1, 2), (5, 2, 1), (9, 2, 1), (9, 1, 1))
    records = Engine(compiled=False).run(workload, fleet, concurrency=2, client_s=0.5)
    assert records.arrival_s.tolist() == [0, 0, 3.5, 4.5]
    assert times(records) == [[3, 4], [3], [6], [7]]


def test_clients_of_several_replicas_send_to_the_emptiest() -> None:
    """Two clients, one second a token: A at the first 0-4, B at the second 0-1; C follows B there, 1-3."""
    fleet = Fleet(tables_of(), EngineLimits(8, 16, 1000), 2, "least_outstanding")
    workload = workload_of((0, 4, 1), (0, 1, 1), (0, 2, 1))
    records = Engine(compiled=False).run(workload, fleet, concurrency=2)
    assert records.arrival_s.tolist() == [0, 0, 1]
    assert records.replica.tolist() == [0, 1, 1]
    assert times(records) == [[4], [1], [3]]


def test_no_more_requests_are_out_than_there_are_clients() -> None:
    for seed in range(60):
        workload, fleet = random_case(seed)
        fleet = replace(fleet, replicas=1 + seed % 4)
        records = simulate_closed(workload, fleet, 1 + seed % 5)
        check_invariants(records)
        at_s = records.arrival_s[records.finished]
        out = (at_s[:, None] >= at_s) & (at_s[:, None] < records.finish_s[records.finished])
        assert out.sum(1).max(initial=0) <= 1 + seed % 5


def test_clients_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"^concurrency must be at least 1, got 0$"):
        simulate_closed(workload_of((0, 1, 1)), Fleet(tables_of(), EngineLimits(8, 16, 1000)), 0)


def test_the_cases_are_scarce_enough_to_preempt_and_to_reject(compiled: Engine) -> None:
    runs = [compiled.run(*random_case(seed)).copy() for seed in range(300)]
    assert sum(records.preemptions.sum() > 0 for records in runs) > 80
    assert sum(records.rejected.any() for records in runs) > 30


def run(workload: Workload, tables: RuntimeTables, **limits: int) -> Records:
    defaults = {
        "max_num_seqs": 8,
        "max_batched_tokens": 16,
        "kv_blocks": 1000,
        "block_tokens": 1,
    } | limits
    return simulate(workload, Fleet(tables, EngineLimits(**defaults)), compiled=False)


def times(records: Records) -> list[list[float]]:
    return [list(t) for t in records.token_times()]


def test_a_prompt_over_the_budget_is_cut_and_the_rest_of_the_budget_admits() -> None:
    """One second a token. 0-4: four of A's six. 4-7: A's two and B's one. 7-9: one each."""
    records = run(
        workload_of((0, 6, 2), (0, 1, 2)), tables_of(), max_batched_tokens=4, max_num_seqs=2
    )
    assert times(records) == [[7, 9], [7, 9]]
    assert records.tokens.tolist() == [4, 3, 2]
    assert records.scheduled_s.tolist() == [0, 4]


def test_a_decode_without_a_block_evicts_the_latest_which_recomputes_all_it_had() -> None:
    """Five blocks of one token. 0-4: both prompts. 4: two blocks needed, one free, B goes. 4-6: A alone;
    B's three tokens do not fit. 6-9: B again, with the token that it had emitted."""
    records = run(workload_of((0, 2, 3), (0, 2, 2)), tables_of(), kv_blocks=5)
    assert times(records) == [[4, 5, 6], [4, 9]]
    assert records.preemptions.tolist() == [0, 1]
    assert records.used_blocks.tolist() == [4, 3, 4, 3]


def test_nothing_is_admitted_in_a_step_that_preempted() -> None:
    """Seven blocks, budget four. 0-4: A's prompt, two of B's three. 4-6: A, B's last. 6: two blocks needed,
    one free, B goes. 6-7: A alone, although three of B's four tokens would fit the three free blocks."""
    records = run(
        workload_of((0, 2, 3), (0, 3, 2)),
        tables_of(),
        kv_blocks=7,
        max_batched_tokens=4,
        max_num_seqs=2,
    )
    assert records.tokens.tolist() == [4, 2, 1, 4]
    assert times(records) == [[4, 6, 7], [6, 11]]


def test_a_request_waits_behind_a_larger_one_that_does_not_fit() -> None:
    """First come, first served: B needs four of the three blocks left, C one, and C stays behind B."""
    records = run(workload_of((0, 2, 3), (1, 4, 1), (1, 1, 1)), tables_of(), kv_blocks=5)
    assert records.scheduled_s.tolist() == [0, 4, 4]


def test_an_arrival_at_a_step_end_is_in_the_next_batch() -> None:
    records = run(workload_of((0, 2, 3), (2, 1, 1)), tables_of())
    assert records.tokens.tolist() == [2, 2, 1]


def test_an_idle_replica_waits_for_the_next_arrival() -> None:
    assert times(run(workload_of((0, 1, 1), (5, 1, 1)), tables_of())) == [[1], [6]]


def test_the_host_works_between_a_step_and_the_next() -> None:
    tables = tables_of(host_step_s=0.5)
    assert times(run(workload_of((0, 2, 3)), tables)) == [[2, 3.5, 5]]


def test_a_batch_formed_ahead_misses_who_arrives_while_the_one_before_runs() -> None:
    """A decodes 2-3, 3-4, 4-5. B arrives at 2.5: the batch of 3-4 was formed at 2, that of 4-6 at 3."""
    workload = workload_of((0, 2, 5), (2.5, 1, 1))
    assert times(run(workload, tables_of()))[1] == [5]
    records = run(workload, tables_of(), async_scheduling=True)
    assert times(records) == [[2, 3, 4, 6, 7], [6]]
    assert records.scheduled_s.tolist() == [0, 3]


def test_a_batch_formed_ahead_cannot_have_the_place_that_is_about_to_be_free() -> None:
    """A is done at 3; B would start then, but the batch formed at 2 is empty, and so B still starts at 3.
    Beside C, which goes on, it starts a step later."""
    alone = run(
        workload_of((0, 2, 2), (0, 1, 1)), tables_of(), max_num_seqs=1, async_scheduling=True
    )
    assert times(alone) == [[2, 3], [4]]
    beside = workload_of((0, 2, 2), (0, 1, 9), (0, 1, 1))
    found = run(beside, tables_of(), max_num_seqs=2, async_scheduling=True)
    assert times(found)[2] == [8]
    assert times(run(beside, tables_of(), max_num_seqs=2))[2] == [7]


def test_the_host_works_behind_the_step_when_batches_are_formed_ahead() -> None:
    tables = tables_of(host_step_s=0.5)
    assert times(run(workload_of((0, 2, 3)), tables, async_scheduling=True)) == [[2, 3, 4]]
    slow = tables_of(host_step_s=1.5)
    assert times(run(workload_of((0, 2, 3)), slow, async_scheduling=True)) == [[2, 3, 4.5]]


def test_chunks_of_one_prompt_follow_each_other_through_the_pipeline() -> None:
    """Stage 0: 0-2 and 2-4. Stage 1: 2-4 and 4-6. A chunk does not wait for the one before it to leave."""
    records = run(workload_of((0, 4, 1)), tables_of(stages=2), max_batched_tokens=2, max_num_seqs=2)
    assert times(records) == [[6]]
    assert records.start_s.tolist() == [0, 2]


def test_two_batches_share_two_stages_and_do_not_overtake() -> None:
    """Stage 0: A 0-2, B 2-4, A 4-5, B 6-7. Stage 1: A 2-4, B 4-6, A 6-7 behind B, B 7-8."""
    records = run(
        workload_of((0, 2, 2), (1, 2, 2)), tables_of(stages=2), max_batched_tokens=2, max_num_seqs=2
    )
    assert times(records) == [[4, 7], [6, 8]]
    assert records.decodes.tolist() == [0, 0, 1, 1]


def test_a_request_longer_than_the_cache_is_rejected_and_the_others_go_on() -> None:
    records = run(workload_of((0, 4, 3), (0, 4, 2), (0, 1, 1)), tables_of(), kv_blocks=5)
    assert records.rejected.tolist() == [True, False, False]
    assert np.isnan(records.finish_s).tolist() == [True, False, False]
    assert np.isnan(records.scheduled_s[0])
    assert len(records.token_times()[0]) == 0


def test_the_last_token_needs_no_block() -> None:
    """Four prompt tokens and two outputs fit five blocks: the second output is never read again."""
    assert not run(workload_of((0, 4, 2)), tables_of(), kv_blocks=5).rejected.any()


def test_shorter_prompts_first_where_the_policy_says_so() -> None:
    limits = EngineLimits(max_num_seqs=1, max_batched_tokens=16, kv_blocks=100)
    fleet = Fleet(tables_of(), limits, policy="shortest_prompt_first")
    records = simulate(workload_of((0, 1, 1), (0, 9, 1), (0, 2, 1)), fleet, compiled=False)
    assert records.scheduled_s.tolist() == [0, 3, 1]


def test_batches_without_a_token_for_ever_end_in_a_named_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rules know no such case; a limit of zero makes the first chunk look like one."""
    monkeypatch.setattr(run_record, "_STALLED_PER_CHUNK", 0)
    with pytest.raises(
        LivelockError, match=r"^rows: requests evict each other without end, with 1000"
    ):
        run(workload_of((0, 4, 1)), tables_of(), max_batched_tokens=2, max_num_seqs=2)


def test_a_run_is_the_same_after_any_other_run_in_the_same_buffers(compiled: Engine) -> None:
    case, other = random_case(11), random_case(12)
    first = compiled.run(*case).copy()
    compiled.run(*other)
    again = compiled.run(*case)
    assert same(first, again)


def test_more_steps_than_the_logs_hold_make_them_grow() -> None:
    workload = workload_of((0, 1, 5000))
    limits = EngineLimits(max_num_seqs=1, max_batched_tokens=1, kv_blocks=5000)
    for flag in (True, False):
        records = simulate(workload, Fleet(tables_of(), limits), compiled=flag)
        assert records.finish_s.tolist() == [5000]
        assert len(records.steps) == 5000
