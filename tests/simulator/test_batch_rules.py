"""Other engines' batches on the compiled engine: the runs of the classes that say what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import (
    check_invariants,
    prefix_case,
    random_case,
    same_outcome,
    tables_of,
    workload_of,
)

from servecast.simulator.engine import routing
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.reference.schedulers import SCHEDULERS, Sarathi
from servecast.simulator.traffic.workload import Workload

RULED = (
    "sglang",
    "sglang:conservativeness=0",
    "sarathi",
    "orca",
    "static",
    "trtllm_no_evict",
    "trtllm_no_evict:chunked_context=1",
    "trtllm_max_utilization",
    "trtllm_max_utilization:chunked_context=1",
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def by_class(engine: Engine, workload: Workload, fleet: Fleet) -> Records:
    """The same, request by request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "rules_of", lambda *asked: None)
        return engine.run(workload, fleet)


def by_rules(engine: Engine, workload: Workload, fleet: Fleet) -> Records:
    """A run that fails where it is not the engine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(routing, "run_objects")
        return engine.run(workload, fleet).copy()


@pytest.mark.parametrize("policy", RULED)
def test_the_compiled_engine_does_what_the_class_decides(engine: Engine, policy: str) -> None:
    interpreted, preemptions = Engine(compiled=False), 0
    for seed in range(100):
        workload, fleet = random_case(seed, stages=1)
        limits = replace(fleet.limits, async_scheduling=False, prefix_caching=None)
        fleet = replace(fleet, policy=policy, limits=limits)
        records = by_rules(engine, workload, fleet)
        expected = by_class(engine, workload, fleet)
        assert same_outcome(records, expected)
        assert records.rejected.tolist() == expected.rejected.tolist()
        check_invariants(records)
        preemptions += int(records.preemptions.sum())
        if seed % 6 == 0:
            assert same_outcome(records, by_rules(interpreted, workload, fleet))
    assert (preemptions > 0) == any(name in policy for name in ("sarathi", "max_util", "ness=0"))


@pytest.mark.parametrize("policy", ["orca", "static"])
def test_a_batch_without_a_budget_goes_beyond_the_tables(engine: Engine, policy: str) -> None:
    """Prompts of 50 and 30 tokens in one batch, where the table ends at 64: each second a token on."""
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=200, block_tokens=1)
    fleet = Fleet(tables_of(), limits, policy=policy)
    run = engine.run(workload_of((0, 50, 1), (0, 30, 2)), fleet)
    assert run.end_s.tolist() == [80.0, 81.0]


def test_several_stages_run_request_by_request(engine: Engine) -> None:
    workload, fleet = random_case(3, stages=2)
    fleet = replace(fleet, policy="sarathi", limits=replace(fleet.limits, prefix_caching=None))
    limits = replace(fleet.limits, max_num_seqs=8, max_batched_tokens=32, async_scheduling=False)
    assert not engine.run(workload, replace(fleet, limits=limits)).lock_step


def test_a_class_made_from_one_of_these_decides_for_itself(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(Sarathi):
        def next_batch(self) -> list[tuple[object, int]]:
            return super().next_batch()[:1]  # type: ignore[return-value]

    monkeypatch.setitem(SCHEDULERS, "lazy", Lazy)
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=200, block_tokens=1)
    run = engine.run(workload_of((0, 4, 1)), Fleet(tables_of(), limits, policy="lazy"))
    assert not run.lock_step
    assert np.array_equal(run.end_s, [4.0])


def test_sglang_with_shared_prefixes_or_mixed_chunks_runs_request_by_request(
    engine: Engine,
) -> None:
    workload, fleet = prefix_case(0, stages=1)
    limits = replace(fleet.limits, async_scheduling=False)
    shared = replace(fleet, policy="sglang", limits=limits)
    mixed = replace(shared, policy="sglang:mixed_chunk=1")
    with pytest.raises(NameError, match="run_objects"):
        by_rules(engine, workload, shared)
    with pytest.raises(NameError, match="run_objects"):
        by_rules(engine, replace(workload, prefix=None), mixed)


def test_clients_that_wait_for_answers_are_served_by_rules_as_by_the_class(engine: Engine) -> None:
    workload, fleet = random_case(8, stages=1)
    limits = replace(fleet.limits, async_scheduling=False, prefix_caching=None)
    for policy in RULED:
        alone = replace(fleet, policy=policy, limits=limits, replicas=1, router="round_robin")
        records = engine.run(workload, alone, concurrency=3, client_s=1.0).copy()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(routing, "rules_of", lambda *asked: None)
            assert same_outcome(records, engine.run(workload, alone, concurrency=3, client_s=1.0))
