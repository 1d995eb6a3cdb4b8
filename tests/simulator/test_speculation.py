"""Speculative decoding: schedules worked by hand, the law of its speed-up, the invariants."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from engine_cases import check_invariants, prefix_case, random_case, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Fleet, simulate
from servecast.simulator.engine.speculation import Speculation, parse_speculation
from servecast.simulator.metrics.metrics import samples
from servecast.simulator.traffic.workload import Workload

LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=16, kv_blocks=100, block_tokens=1)
ALL_OF_THREE = Speculation(lengths=(0, 0, 0, 1), acceptance=(1.0,))


def run(workload: Workload, speculation: Speculation, **limits: Any) -> Records:
    """One second a token of the batch, drafted ones included."""
    asked = replace(LIMITS, **limits)
    return simulate(workload, Fleet(tables_of(), asked, modes=Modes(speculation=speculation)))


def times(records: Records) -> list[list[float]]:
    return [each.tolist() for each in records.token_times()]


def test_a_check_brings_what_was_accepted_and_one_more() -> None:
    """0-2 prompt. 2-6 three drafted tokens and one are checked; all are kept. 6-10 the last of them."""
    records = run(workload_of((0, 2, 6)), ALL_OF_THREE)
    assert times(records) == [[2, 6, 6, 6, 6, 10]]
    assert samples(records, "tbt").repeated().tolist() == [0, 0, 0, 4, 4]
    assert samples(records, "tpot").repeated().tolist() == [8 / 5]


def test_a_check_that_was_formed_ahead_runs_although_nobody_needs_it() -> None:
    """0-2 A's prompt, 2-6 a check that brings all that is left. The check 6-10 was formed at 2, when one
    token was sure; B, who came at 5, is behind it."""
    workload = workload_of((0, 2, 5), (5, 1, 1))
    assert times(run(workload, ALL_OF_THREE)) == [[2, 6, 6, 6, 6], [7]]
    ahead = run(workload, ALL_OF_THREE, async_scheduling=True)
    assert times(ahead) == [[2, 6, 6, 6, 6], [11]]
    assert ahead.steps["start_s"].tolist() == [0, 2, 6, 10]


def test_a_check_ahead_begins_behind_what_is_rejected_before_it() -> None:
    """One of three is kept each time: two tokens at 6 and 10, the last at 14. A cache of 2 + 5 - 1 tokens and
    six drafted ones is enough, one less is not."""
    speculation = Speculation((0, 0, 0, 1), trace=((3, 1),))
    found = run(workload_of((0, 2, 6)), speculation, async_scheduling=True)
    assert times(found) == [[2, 6, 6, 10, 10, 14]]
    tight = run(workload_of((0, 2, 5)), speculation, async_scheduling=True, kv_blocks=12)
    assert times(tight) == [[2, 6, 6, 10, 10]]
    assert run(
        workload_of((0, 2, 5)), speculation, async_scheduling=True, kv_blocks=11
    ).rejected.all()


def test_rejected_drafts_cost_their_time_and_bring_nothing() -> None:
    """One of three is kept in each check: two tokens in four seconds."""
    speculation = Speculation((0, 0, 0, 1), trace=((3, 1),))
    assert times(run(workload_of((0, 2, 5)), speculation)) == [[2, 6, 6, 10, 10]]


def test_the_budget_cuts_a_draft_short() -> None:
    """A and B check four tokens each; seven are left to a step, so B's draft is cut to two."""
    records = run(
        workload_of((0, 1, 5), (0, 1, 5)), ALL_OF_THREE, max_batched_tokens=7, max_num_seqs=2
    )
    assert times(records) == [[2, 9, 9, 9, 9], [2, 9, 9, 9, 13]]


def test_a_prompt_of_one_token_beside_checks_is_padded_to_their_length() -> None:
    """2-10: A checks four tokens, B's one is padded to four. Alone it takes a second."""
    records = run(workload_of((0, 2, 6), (1, 1, 1)), ALL_OF_THREE)
    assert times(records) == [[2, 10, 10, 10, 10, 14], [10]]
    assert times(run(workload_of((0, 1, 1)), ALL_OF_THREE)) == [[1]]


def test_drafted_tokens_hold_blocks_and_may_preempt() -> None:
    """Each has 2 tokens and checks 4 at 4: A takes slots 3-6, then B lacks one of 11 and goes."""
    records = run(workload_of((0, 2, 5), (0, 2, 5)), ALL_OF_THREE, kv_blocks=11)
    assert records.preemptions.tolist() == [0, 1]
    assert times(records)[0] == [4, 8, 8, 8, 8]
    assert records.steps["used_blocks"].max() <= 11


def test_a_drafter_takes_a_pass_for_each_token_and_slots_of_its_own() -> None:
    """Costs a half. 0-2 prompt: 2, and a pass over it: 1, and two for one token: 1. 4-8 check, and 2 + 1."""
    speculation = replace(ALL_OF_THREE, cost=0.5)
    records = run(workload_of((0, 2, 6)), speculation)
    assert times(records) == [[4, 11, 11, 11, 11, 18]]
    assert records.steps["used_blocks"].tolist() == [5, 9, 13]


def test_a_drafter_with_times_of_its_own() -> None:
    """A tenth of a second a token: 2 + 0.2 + 2 * 0.1, then 4 + 0.4 + 2 * 0.1 twice."""
    drafter = tables_of(per_token_s=0.1)
    records = run(workload_of((0, 2, 6)), replace(ALL_OF_THREE, drafter=drafter))
    np.testing.assert_allclose(times(records)[0], [2.4, 7, 7, 7, 7, 11.6])


def test_tokens_of_a_check_follow_the_geometric_law() -> None:
    """Leviathan et al. 2023, equation 1: (1 - a^(k+1)) / (1 - a) tokens a check, within four errors."""
    a, k, checks = 0.7, 4, 20_000
    drafts = Speculation((0,) * k + (1,), (a,)).drafts(0)
    gained = np.array([1 + accepted for _, accepted in islice(drafts, checks)])
    error = gained.std() / checks**0.5
    assert abs(gained.mean() - (1 - a ** (k + 1)) / (1 - a)) < 4 * error


def test_positions_and_lengths_have_probabilities_of_their_own() -> None:
    drafts = list(islice(Speculation((0.25, 0, 0.75), (1.0, 0.5)).drafts(3), 8000))
    assert {drafted for drafted, _ in drafts} == {0, 2}
    assert np.mean([drafted == 2 for drafted, _ in drafts]) == pytest.approx(0.75, abs=0.02)
    twos = [accepted for drafted, accepted in drafts if drafted == 2]
    assert set(twos) == {1, 2}
    assert np.mean(twos) == pytest.approx(1.5, abs=0.03)


def test_a_trace_is_replayed_in_order_from_a_place_of_each_request() -> None:
    trace = ((3, 0), (3, 1), (3, 2), (2, 2))
    got = [tuple(islice(Speculation(trace=trace).drafts(n), 4)) for n in range(20)]
    turns = {trace[i:] + trace[:i] for i in range(4)}
    assert set(got) == turns


def test_the_same_seed_gives_the_same_run_and_others_of_a_batch_do_not_matter() -> None:
    speculation = Speculation((0, 0, 1), (0.5,))
    alone = run(workload_of((0, 2, 9)), speculation)
    beside = run(workload_of((0, 2, 9), (0, 2, 9)), speculation)
    gains = [
        np.unique(each, return_counts=True)[1].tolist()
        for each in (times(alone)[0], times(beside)[0])
    ]
    assert gains[0] == gains[1]


@pytest.mark.parametrize("stages", [1, 2])
def test_every_run_keeps_the_invariants(stages: int) -> None:
    for seed in range(60):
        workload, fleet = (prefix_case if seed % 2 else random_case)(seed, stages)
        lengths = (0, 0, 1) if fleet.limits.async_scheduling else (0.2, 0.3, 0.5)
        modes = Modes(speculation=Speculation(lengths, (0.8, 0.4), cost=seed % 3 / 10))
        tables = tables_of(stages, rng=np.random.default_rng(seed))
        fleet = replace(fleet, modes=modes, tables=tables)
        records = simulate(workload, fleet)
        check_invariants(records)


def test_without_a_draft_nothing_changes() -> None:
    workload, fleet = random_case(8, 1)
    never = Modes(speculation=Speculation((0.999999999, 1e-9), (0.0,)))
    workload = replace(workload, prompt_tokens=workload.prompt_tokens + 1)  # one token is padded
    fleet = replace(fleet, limits=replace(fleet.limits, kv_blocks=400, prefix_caching=False))
    assert times(simulate(workload, replace(fleet, modes=never))) == times(
        simulate(workload, fleet)
    )


def test_what_is_wrong_is_one_sentence() -> None:
    ahead = replace(LIMITS, async_scheduling=True)
    modes = Modes(speculation=ALL_OF_THREE)
    workload = workload_of((0, 1, 1))
    several = Modes(speculation=Speculation((0.5, 0.5)))
    with pytest.raises(UserError, match=r"^speculation with async_scheduling: .* of one length$"):
        simulate(workload, Fleet(tables_of(), ahead, modes=several))
    with pytest.raises(
        UserError, match=r"^policy 'orca' with speculation: these modes are for ord"
    ):
        simulate(workload, Fleet(tables_of(), LIMITS, policy="orca", modes=modes))
    with pytest.raises(UserError, match=r"^speculation without a drafted token: leave it away$"):
        parse_speculation("draft=0")
    with pytest.raises(UserError, match=r"^acceptance \(1\.5,\): each must be from 0 to 1$"):
        parse_speculation("draft=2,acceptance=1.5")
    with pytest.raises(UserError, match=r"^draft lengths' probabilities .* must add up to 1$"):
        parse_speculation("draft=0:0.5/4:0.6")
    with pytest.raises(
        UserError, match=r"^speculation 'drafts=2': 'drafts=2' is not one of draft="
    ):
        parse_speculation("drafts=2")


def test_a_speculation_is_read_from_text() -> None:
    assert parse_speculation("draft=0:0.3/4:0.7,acceptance=0.8/0.6,cost=0.05") == Speculation(
        (0.3, 0, 0, 0, 0.7), (0.8, 0.6), cost=0.05
    )
    assert parse_speculation("draft=2") == Speculation((0, 0, 1), (0.7,))
