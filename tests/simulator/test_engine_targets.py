"""A run is given up exactly when more is late than may be."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from engine_cases import random_case, same, tables_of, workload_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import allowed_late, value


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def late(records: Records, targets: LateTargets) -> dict[str, bool]:
    """Of a run to the end: which targets are missed, counted token by token."""
    arrival_s = records.arrival_s
    gaps = np.concatenate([np.diff(t) for t in records.token_times()])
    counts = {
        "queue_delay": (records.scheduled_s - arrival_s > targets.queue_delay_s).sum(),
        "ttft": (records.first_token_s - arrival_s > targets.ttft_s).sum(),
        "e2e": (records.finish_s - arrival_s > targets.e2e_s).sum(),
        "tbt": (gaps > targets.tbt_s).sum(),
    }
    most = {
        "queue_delay": targets.max_late_queue_delay,
        "ttft": targets.max_late_ttft,
        "e2e": targets.max_late_e2e,
        "tbt": targets.max_late_gaps,
    }
    return {metric: bool(counts[metric] > most[metric]) for metric in counts}


def random_targets(records: Records, rng: np.random.Generator) -> LateTargets:
    """Limits and counts that this run misses about as often as it meets them."""
    if records.rejected.all():
        return LateTargets()
    limits = {
        f"{metric}_s": value(records, metric, float(rng.integers(1, 101)))
        for metric in ("queue_delay", "ttft", "e2e", "tbt")
        if rng.random() < 0.4 and not np.isnan(value(records, metric, 50))
    }
    few = rng.integers(0, 4, 3).tolist()
    return LateTargets(
        **limits,
        max_late_queue_delay=few[0],
        max_late_ttft=few[1],
        max_late_e2e=few[2],
        max_late_gaps=int(rng.integers(0, 200)),
    )


def test_runs_are_given_up_exactly_when_more_is_late_than_may_be(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    given_up = 0
    for seed in range(600):
        workload, fleet = random_case(seed)
        whole = engine.run(workload, fleet).copy()
        targets = random_targets(whole, rng)
        missed = late(whole, targets)
        records = engine.run(workload, fleet, targets)
        assert records.given_up == any(missed.values())
        assert records.broken_metric is None or missed[records.broken_metric]
        if not records.given_up:
            assert same(records, whole)
        given_up += records.given_up
    assert 150 < given_up < 450


def test_a_run_whose_steps_nobody_looks_at_is_the_same_without_them(engine: Engine) -> None:
    """Its logs begin anew after 256 steps."""
    rng, longer = np.random.default_rng(2), 0
    for seed in range(150):
        workload, fleet = random_case(seed)
        targets = random_targets(engine.run(workload, fleet), rng)
        kept = engine.run(workload, fleet, targets).copy()
        records = engine.run(workload, fleet, replace(targets, steps_kept=False))
        for name in ("scheduled_s", "first_token_s", "finish_s", "preemptions", "replica"):
            np.testing.assert_array_equal(getattr(records, name), getattr(kept, name))
        assert (records.broken_metric, records.most) == (kept.broken_metric, kept.most)
        assert len(records.steps) == len(records.segments) == 0
        longer += len(kept.steps) > 256
    assert longer > 5


def test_a_run_is_given_up_while_the_late_request_still_waits(engine: Engine) -> None:
    """A takes 100 steps; B may wait for 5 of them."""
    workload = workload_of((0, 1, 100), (1, 1, 1))
    fleet = Fleet(tables_of(), EngineLimits(max_num_seqs=1, max_batched_tokens=1, kv_blocks=1000))
    records = engine.run(workload, fleet, LateTargets(queue_delay_s=5.0))
    assert records.broken_metric == "queue_delay"
    assert np.isnan(records.scheduled_s[1])


@pytest.mark.parametrize("percentile", [50, 90, 99, 99.9, 100])
def test_a_percentile_keeps_a_limit_exactly_when_no_more_than_allowed_exceed_it(
    percentile: float,
) -> None:
    for count in (1, 2, 10, 99, 100, 101, 1000, 1001):
        at_limit = count - allowed_late(count, percentile)
        assert at_limit >= Fraction(str(percentile)) * count / 100 > at_limit - 1


def test_a_target_at_the_very_percentile_of_a_run_keeps_it(engine: Engine) -> None:
    workload, fleet = random_case(5, stages=1)
    fleet = replace(fleet, replicas=1)
    records = engine.run(workload, fleet)
    limit_s = value(records, "ttft", 90)
    served = int(records.finished.sum())
    targets = LateTargets(ttft_s=limit_s, max_late_ttft=allowed_late(served, 90))
    assert not engine.run(workload, fleet, targets).given_up
    tighter = replace(targets, ttft_s=limit_s * (1 - 1e-9))
    assert engine.run(workload, fleet, tighter).broken_metric == "ttft"
