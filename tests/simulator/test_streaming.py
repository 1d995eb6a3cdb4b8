"""A run in chunks is the run in one piece."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.compiled import compile_engine
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.picks import PICKS
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.engine.streaming import run_streamed
from servecast.simulator.metrics.metrics import samples, summarise
from servecast.simulator.traffic.workload import Workload

COLUMNS = ("arrival_s", "scheduled_s", "first_token_s", "finish_s", "preemptions", "replica")


def case(seed: int) -> tuple[Workload, Fleet]:
    """Anything but what needs all requests at once."""
    workload, fleet = random_case(seed)
    policy = "vllm_v1" if fleet.policy in PICKS else fleet.policy
    router = "least_tokens" if fleet.router == "session_sticky" else fleet.router
    limits = replace(fleet.limits, prefix_caching=False)
    return workload, replace(fleet, policy=policy, router=router, limits=limits)


def assert_same(whole: Records, streamed: Records) -> None:
    served = ~whole.rejected
    assert np.array_equal(whole.rejected, streamed.rejected)
    for name in COLUMNS:
        assert np.array_equal(
            whole.requests[name][served], streamed.requests[name][served], equal_nan=True
        ), name
    gaps = samples(whole, "tbt").repeated()
    assert samples(streamed, "tbt").repeated() == pytest.approx(gaps)
    one, other = summarise(whole), summarise(streamed)
    for name in ("ttft_s", "e2e_s", "queue_delay_s", "num_finished", "num_rejected", "preemptions"):
        np.testing.assert_equal(getattr(other, name), getattr(one, name))
    for name in ("busy", "kv_use_mean", "kv_use_peak", "mean_batch", "mean_tokens", "duration_s"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), nan_ok=True), name


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_chunks_give_every_request_the_times_of_the_run_in_one_piece(chunk: int) -> None:
    engine, simulate, preempted = Engine(), compile_engine(), 0
    for seed in range(250):
        workload, fleet = case(seed)
        whole = engine.run(workload, fleet).copy()
        assert_same(whole, run_streamed(workload, fleet, chunk, simulate))
        preempted += bool(whole.preemptions.any())
    assert preempted > 60


def test_gaps_around_preemptions_are_kept_though_the_steps_are_not() -> None:
    """Worked by hand: A's tokens at 4, 5, 6 and B's, evicted in between, at 4 and 9."""
    limits = EngineLimits(8, 16, kv_blocks=5, block_tokens=1)
    records = run_streamed(workload_of((0, 2, 3), (0, 2, 2)), Fleet(tables_of(), limits), chunk=1)
    assert records.finish_s.tolist() == [6, 9]
    assert samples(records, "tbt").repeated().tolist() == [1, 1, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "hrrn"}, r"^rows: policy 'hrrn' with a run in chunks: it needs all requests$"),
        ({"policy": "orca"}, r"^rows: policy 'orca' with a run in chunks"),
        ({"router": "session_sticky"}, r"^rows: router 'session_sticky' with a run in chunks"),
    ],
)
def test_what_needs_all_requests_at_once_is_refused(change: dict[str, str], message: str) -> None:
    fleet = Fleet(tables_of(), EngineLimits(8, 16, 1000), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        run_streamed(workload_of((0, 1, 1)), fleet)
