"""Requests to replicas, and what a fleet refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import ROUTERS_TO_TRY, random_case, same_outcome, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

LIMITS = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=1000, block_tokens=1)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def every(workload: Workload, start: int, step: int) -> Workload:
    return workload.take(np.arange(start, len(workload), step), workload.arrival_s[start::step])


@pytest.mark.parametrize("seed", range(20))
def test_round_robin_is_one_run_for_each_replica(engine: Engine, seed: int) -> None:
    workload, fleet = random_case(seed)
    roomy = replace(fleet.limits, kv_blocks=1000)
    fleet = replace(fleet, limits=roomy, replicas=3, router="round_robin")
    together = engine.run(workload, fleet).copy()
    for r in range(min(3, len(workload))):
        alone = engine.run(every(workload, r, 3), replace(fleet, replicas=1))
        assert np.array_equal(together.finish_s[r::3], alone.finish_s)


def test_the_replica_with_the_fewest_unfinished_requests_gets_the_next() -> None:
    """One second a token. A keeps replica 0 until 12, B replica 1 until 3; C comes between, D after that."""
    workload = workload_of((0, 2, 11), (1, 1, 2), (2, 1, 1), (4, 1, 1))
    fleet = Fleet(tables_of(), LIMITS, replicas=2, router="least_outstanding")
    assert simulate(workload, fleet, compiled=False).replica.tolist() == [0, 1, 0, 1]


def test_equal_replicas_are_taken_in_order() -> None:
    workload = workload_of((0, 1, 1), (0, 1, 1), (0, 1, 1))
    fleet = Fleet(tables_of(), LIMITS, replicas=2, router="least_outstanding")
    assert simulate(workload, fleet, compiled=False).replica.tolist() == [0, 1, 0]


def test_of_two_random_replicas_the_one_with_fewer_requests_is_taken(engine: Engine) -> None:
    """Ten replicas, requests that never end in time: the fullest has fewer than with one choice."""
    workload = workload_of(*((0.01 * i, 1, 900) for i in range(500)))
    fleet = Fleet(tables_of(), LIMITS, replicas=10)
    fullest = {
        router: np.bincount(engine.run(workload, replace(fleet, router=router)).replica).max()
        for router in ("random", "power_of_two", "least_outstanding")
    }
    assert fullest["least_outstanding"] == 50
    assert fullest["power_of_two"] < 55 < fullest["random"]


def test_the_same_beginning_goes_to_the_same_replica(engine: Engine) -> None:
    plain = workload_of(*((float(i), 8, 2) for i in range(6)))
    ids = np.array([7, 1, 9, 2, 7, 3, 9, 4, 7, 5, 8, 6])
    prefix = PrefixBlocks(block_tokens=4, offsets=np.arange(0, 13, 2), ids=ids)
    fleet = Fleet(tables_of(), LIMITS, replicas=3, router="prefix_affinity")
    replicas = engine.run(replace(plain, prefix=prefix), fleet).replica.tolist()
    assert replicas[0] == replicas[2] == replicas[4]
    assert replicas[1] == replicas[3]
    assert len(set(replicas)) == 3
    with pytest.raises(UserError, match=r"^rows: router 'prefix_affinity' needs a trace with the"):
        engine.run(plain, fleet)


def routed(router: str, *rows: tuple[float, int, int], **columns: np.ndarray) -> list[int]:
    fleet = Fleet(tables_of(), LIMITS, replicas=2, router=router)
    workload = replace(workload_of(*rows), **columns)
    return simulate(workload, fleet, compiled=False).replica.tolist()


def test_the_replica_with_the_fewest_prompt_tokens_gets_the_next() -> None:
    """A's nine against B's one: C and D go to replica 1, and only E, when that has ten, to replica 0."""
    rows = [(0.0, 9, 99), (0.0, 1, 99), (0.0, 4, 99), (0.0, 5, 99), (0.0, 1, 1)]
    assert routed("least_tokens", *rows) == [0, 1, 1, 1, 0]
    assert routed("least_outstanding", *rows) == [0, 1, 0, 1, 0]


def test_a_session_stays_where_it_began() -> None:
    """C is of A's session, D of B's, though the other replica is as empty or emptier."""
    rows = [(0.0, 1, 99), (0.0, 1, 99), (0.0, 1, 99), (0.0, 1, 99), (0.0, 1, 1)]
    session = np.array([0, 1, 0, 0, 2])
    assert routed("session_sticky", *rows, session=session) == [0, 1, 0, 0, 1]
    with pytest.raises(
        UserError, match=r"^rows: router 'session_sticky' needs a trace with the se"
    ):
        routed("session_sticky", *rows)


def test_a_stale_router_hears_of_a_finish_at_the_next_refresh() -> None:
    """A is done at 2, B is not. Refreshed at 0 and 5 only, the router does not know it at 4."""
    rows = [(0.0, 1, 2), (0.0, 1, 99), (1.0, 1, 99), (4.0, 1, 1), (5.0, 1, 1)]
    assert routed("least_outstanding", *rows) == [0, 1, 0, 0, 1]
    assert routed("least_outstanding:own=0", *rows) == [0, 1, 0, 0, 1]
    assert routed("least_outstanding:stale_s=5", *rows) == [0, 1, 0, 1, 0]


def test_a_router_that_forgets_its_own_requests_herds_them_between_refreshes() -> None:
    """Nothing was known at 0, so for ten seconds all go to replica 0; at 10 it knows of them."""
    rows = [(float(t), 1, 99) for t in (0, 3, 6, 9, 10, 12)]
    assert routed("least_outstanding:stale_s=10,own=0", *rows) == [0, 0, 0, 0, 1, 1]


def test_deferred_requests_wait_for_the_first_replica_with_a_place() -> None:
    """One each. A keeps replica 0 until 10, B replica 1 until 2; C and D, there since 1, follow B."""
    rows = [(0.0, 1, 10), (0.0, 1, 2), (1.0, 1, 3), (1.0, 1, 1)]
    assert routed("deferred:limit=1", *rows) == [0, 1, 1, 1]
    fleet = Fleet(tables_of(), LIMITS, replicas=2, router="deferred:limit=1")
    records = simulate(workload_of(*rows), fleet, compiled=False)
    assert records.scheduled_s.tolist() == [0, 0, 2, 5]


@pytest.mark.parametrize("router", ROUTERS_TO_TRY)
def test_every_rule_gives_the_same_run_on_the_engine_and_on_plain_objects(
    engine: Engine, router: str
) -> None:
    for seed in range(0, 60, 2):
        workload, fleet = random_case(seed, stages=1)
        limits = replace(fleet.limits, prefix_caching=False)
        fleet = replace(fleet, limits=limits, replicas=3, router=router, policy="vllm_v1")
        fast = engine.run(workload, fleet).copy()
        slow = engine.run(workload, replace(fleet, policy="vllm_v1:long_prefill_threshold=1000"))
        assert same_outcome(fast, slow)


def test_a_finish_at_the_instant_of_an_arrival_is_seen() -> None:
    """A is done at 2, when C arrives; B is not."""
    workload = workload_of((0, 1, 2), (0, 1, 9), (2, 1, 1))
    fleet = Fleet(tables_of(), LIMITS, replicas=2, router="least_outstanding")
    assert simulate(workload, fleet, compiled=False).replica.tolist() == [0, 1, 0]


def test_a_finish_is_not_seen_before_the_host_has_processed_it() -> None:
    """A is done at 2 and processed at 2.5; replica 1, which never had one, is as busy to the router at 2."""
    workload = workload_of((0, 1, 1), (0, 1, 9), (1, 1, 1), (2, 1, 1))
    fleet = Fleet(tables_of(host_step_s=1.5), LIMITS, replicas=2, router="least_outstanding")
    assert simulate(workload, fleet, compiled=False).replica.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_tokens": 12}, r"^block_tokens must be a power of two, got 12$"),
        ({"kv_blocks": 0}, r"^kv_blocks must be at least 1, got 0$"),
        (
            {"max_batched_tokens": 2},
            r"^max_batched_tokens 2 is smaller than max_num_seqs 4: not every sequence could decode$",
        ),
    ],
)
def test_limits_that_contradict_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fleet(tables_of(), replace(LIMITS, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"router": "fastest"}, r"^router 'fastest' is not one of round_robin, least_outstanding"),
        (
            {"router": "deferred:limits=3"},
            r"^router 'deferred:limits=3': no parameter 'limits' \(did you mean 'limit'\?\)",
        ),
        ({"policy": "fair"}, r"^policy 'fair' is not one of vllm_v1"),
        ({"replicas": 0}, r"^replicas must be at least 1, got 0$"),
    ],
)
def test_fleets_that_do_not_exist_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fleet(**({"tables": tables_of(), "limits": LIMITS} | change))


def test_forming_batches_ahead_needs_one_stage() -> None:
    with pytest.raises(UserError, match=r"^async_scheduling with 2 pipeline stages: it needs one"):
        Fleet(tables_of(stages=2), replace(LIMITS, async_scheduling=True))


def test_tables_smaller_than_the_limits_are_a_bug() -> None:
    with pytest.raises(ValueError, match=r"^token_s has 11 points, the limits need 17$"):
        Fleet(tables_of(max_batched_tokens=10), LIMITS)
