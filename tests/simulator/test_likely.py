"""Where the search for a capacity begins: by what a full replica does, and by what the arrivals pile up."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from engine_cases import even_tables
from hypothesis import given
from hypothesis import strategies as st

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.search.bisection import find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import Capacity, Judge
from servecast.simulator.search.likely import full_replica, likely_rate_per_s
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Workload

TABLES = even_tables(64, 16)
LIMITS = EngineLimits(8, 64, 400)
ALIKE = Workload("alike", np.arange(100.0), np.full(100, 4), np.full(100, 3))
"""Prompts of 4 tokens and outputs of 3: 4 / 3 tokens of prompts for each decode."""


def test_a_full_replica_worked_by_hand() -> None:
    """Eight decodes need 32 / 3 tokens of prompts a step, more than one prompt: each step has 18 tokens,
    takes 0.01 + 18 * 0.0002 s and ends 8 / 3 requests."""
    full = full_replica(ALIKE, TABLES, LIMITS)
    assert (full.sequences, full.by_tokens) == (8.0, False)
    assert full.rate_per_s == pytest.approx(8 / 3 / (0.01 + 18 * 0.0002))


def test_steps_without_a_prompt_are_shorter() -> None:
    """Two decodes of 40 outputs need a prompt of 4 in every 20th step: 0.0104 s, and 0.0112 s with it."""
    traffic = replace(ALIKE, output_tokens=np.full(100, 40))
    full = full_replica(traffic, TABLES, replace(LIMITS, max_num_seqs=2))
    assert full.rate_per_s == pytest.approx(2 / 40 / (0.95 * 0.0104 + 0.05 * 0.0112))


def test_in_a_pipeline_every_batch_waits_for_the_one_with_a_prompt() -> None:
    """Of two batches, of two decodes each, one has a prompt in 1 - 0.95 ** 2 of the rounds."""
    traffic = replace(ALIKE, output_tokens=np.full(100, 40))
    limits = replace(LIMITS, max_num_seqs=4)
    full = full_replica(traffic, even_tables(64, 16, stages=2), limits)
    assert full.rate_per_s == pytest.approx(2 / 40 / (0.9025 * 0.0104 + 0.0975 * 0.0112))


def test_the_front_of_the_queue_keeps_part_of_the_cache_free() -> None:
    """Of 48 tokens half a prompt, 2, waits for more; a decode has 4 + 1.5, and half a block of 16."""
    full = full_replica(ALIKE, TABLES, replace(LIMITS, kv_blocks=3))
    assert full.sequences == pytest.approx(46 / 13.5)


def test_a_token_budget_holds_a_replica_back() -> None:
    """Of two tokens a decode only one is its own."""
    full = full_replica(ALIKE, TABLES, replace(LIMITS, max_batched_tokens=8))
    assert (full.sequences, full.by_tokens) == (4.0, True)


def test_without_limits_or_with_few_requests_any_rate_is_likely() -> None:
    fleet = Fleet(TABLES, LIMITS)
    full = full_replica(ALIKE, TABLES, LIMITS)
    few = LateTargets(queue_delay_s=1.0, max_late_queue_delay=100)
    for targets in (LateTargets(), few):
        assert likely_rate_per_s(ALIKE, fleet, targets) > 20 * full.rate_per_s


def test_a_burst_makes_a_lower_rate_likely() -> None:
    """All but one of a hundred come within a tenth of the time, and none may wait."""
    none = LateTargets(queue_delay_s=0.0)
    even = likely_rate_per_s(ALIKE, Fleet(TABLES, LIMITS), none)
    burst = replace(ALIKE, arrival_s=np.append(ALIKE.arrival_s[:-1] / 10, 99.0))
    assert likely_rate_per_s(burst, Fleet(TABLES, LIMITS), none) < even / 5


@given(
    replicas=st.integers(1, 4),
    router=st.sampled_from(["round_robin", "least_outstanding"]),
    limit_s=st.floats(0.01, 20.0),
    more=st.floats(1.0, 3.0),
)
def test_more_patience_and_more_replicas_never_make_less_likely(
    replicas: int, router: str, limit_s: float, more: float
) -> None:
    traffic = drawn(200)
    fleet = Fleet(TABLES, LIMITS, replicas, router)
    patient = LateTargets(queue_delay_s=limit_s * more, max_late_queue_delay=2)
    asked = LateTargets(queue_delay_s=limit_s, max_late_queue_delay=2)
    rate = likely_rate_per_s(traffic, fleet, asked)
    assert 0 < rate < inf
    assert rate <= likely_rate_per_s(traffic, fleet, patient) * 1.001


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize(("seqs", "tokens", "blocks"), [(8, 64, 400), (16, 64, 60), (16, 32, 400)])
def test_it_is_near_the_capacity_that_a_search_finds(
    stages: int, seqs: int, tokens: int, blocks: int
) -> None:
    """Within a quarter, whatever holds the replica back."""
    tables, limits = even_tables(64, 16, stages=stages), EngineLimits(seqs, tokens, blocks)
    judge, fleet = Judge(drawn(3000), (), Engine()), Fleet(tables, limits, 2)
    upper = 2 * max_rate_per_s(judge.workload, tables, limits)
    found = find_capacity(judge, fleet, upper)
    assert isinstance(found, Capacity)
    assert judge.likely_per_s(fleet) == pytest.approx(found.rate_per_s, rel=0.25)


def drawn(count: int) -> Workload:
    rng = stream(count, "test")
    arrivals = gamma_arrivals(count, 5.0, 1.5, rng)
    return Workload("drawn", arrivals, rng.integers(10, 100, count), rng.integers(2, 60, count))
