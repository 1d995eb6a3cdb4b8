"""The engine against its oracle, against schedules worked by hand, and against its laws."""

from __future__ import annotations

import pytest
from engine_cases import check_invariants, random_case

from servecast.simulator.records import Records
from servecast.simulator.reference import ReferenceRun, simulate_reference
from servecast.simulator.routing import Engine


@pytest.fixture(scope="module")
def compiled() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def interpreted() -> Engine:
    return Engine(compiled=False)


def assert_equal(records: Records, reference: ReferenceRun) -> None:
    """Every token time, step and preemption, to the last bit."""
    assert records.rejected.tolist() == [r is None for r in reference.requests]
    for times, row, request in zip(
        records.token_times(), records.requests, reference.requests, strict=True
    ):
        assert times.tolist() == (request.token_s if request else [])
        if request:
            assert row["scheduled_s"] == request.scheduled_s
            assert row["preemptions"] == request.preemptions
            assert row["replica"] == request.replica
    for number in range(records.replicas):
        mine = records.steps[records.steps["lane"] // records.stages == number]
        theirs = [s for s in reference.steps if s.replica == number]
        for name in ("start_s", "end_s", "tokens", "sequences", "decodes", "cached", "used_blocks"):
            assert mine[name].tolist() == [getattr(s, name) for s in theirs], name


@pytest.mark.parametrize("block", range(10))
def test_every_time_equals_the_reference_to_the_last_bit(
    compiled: Engine, interpreted: Engine, block: int
) -> None:
    for seed in range(block * 120, block * 120 + 120):
        workload, fleet = random_case(seed)
        reference = simulate_reference(workload, fleet)
        records = compiled.run(workload, fleet)
        assert_equal(records, reference)
        check_invariants(records)
        if seed % 3 == 0:
            assert_equal(interpreted.run(workload, fleet), reference)
