"""Bandwidth, bubbles, energy and the steady state, against sums made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of
from test_flops import tiny
from test_simulate import loader, run

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.service import Slo
from servecast.compiler.sharded import Parallelism
from servecast.estimator.load import TableLoader
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.metrics.energy import energy, power_w
from servecast.simulator.metrics.flops import peak_flops
from servecast.simulator.metrics.metrics import samples, summarise
from servecast.simulator.metrics.steady import steady_state
from servecast.simulator.metrics.usage import (
    bubbles,
    computed_s,
    mbu,
    moved_bytes,
    step_flops,
)
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Workload

__all__ = ["loader"]
SKU = replace(
    shipped_skus()["h100-sxm"],
    bandwidth_bytes_per_s=1000.0,
    peak_flops_per_s=(("bf16", 1000.0),),
    power_idle_w=10.0,
    power_peak_w=110.0,
)


def one_request(seconds_a_token: float = 1.0) -> Records:
    """A prompt of three tokens, then one decode with three in the cache."""
    fleet = Fleet(tables_of(per_token_s=seconds_a_token), EngineLimits(8, 16, 1000))
    return simulate(workload_of((0, 3, 2)), fleet, compiled=False)


def test_bytes_of_a_step_are_its_weights_activations_and_caches() -> None:
    """Five layers of a 4x6 matrix, two bytes a number, and one 4x10 head; six numbers of cache a token."""
    prefill, decode = moved_bytes(tiny(Parallelism()), one_request())
    assert prefill == 5 * 2 * (4 * 6 + 3 * (4 + 6)) + 2 * (4 * 10 + (4 + 10))
    assert decode == 5 * (2 * (4 * 6 + (4 + 6)) + 3 * 2 * 6) + 2 * (4 * 10 + (4 + 10))


def test_flops_of_a_step_are_its_rows_and_what_its_decodes_see() -> None:
    prefill, decode = step_flops(tiny(Parallelism()), one_request())
    assert prefill == 3 * 5 * (2 * 4 * 6) + 2 * 4 * 10
    assert decode == 5 * (2 * 4 * 6) + 2 * 4 * 10 + 4 * 5 * (4 * 2 * 3)


def test_bandwidth_is_over_the_whole_run() -> None:
    records, program = one_request(), tiny(Parallelism())
    moved = moved_bytes(program, records).sum()
    assert mbu(program, SKU, records, 4.0) == pytest.approx(moved / (1000 * 4.0))
    two = replace(records, replicas=2)
    assert mbu(program, SKU, two, 4.0) == pytest.approx(moved / (2 * 1000 * 4.0))


def test_a_busy_gpu_draws_more_by_what_it_uses_most() -> None:
    """Prefill by FLOPs: 800 of 1000 a second over 3 s; the decode by FLOPs, too."""
    records, program = one_request(), tiny(Parallelism())
    used = energy(program, SKU, records, 4.0)
    most = np.maximum(step_flops(program, records), moved_bytes(program, records)) / 1000
    assert used is not None
    assert used.joules == pytest.approx(10 * 4.0 + 100 * float(most.sum()))
    assert used.carbon_g(360.0) == pytest.approx(used.joules / 3.6e6 * 360)


def test_a_step_that_waits_for_memory_draws_by_its_bytes() -> None:
    """With FLOP/s to spare."""
    records, program = one_request(), tiny(Parallelism())
    used = energy(program, replace(SKU, peak_flops_per_s=(("bf16", 1e9),)), records, 4.0)
    assert used is not None
    assert used.joules == pytest.approx(10 * 4 + 100 * moved_bytes(program, records).sum() / 1000)


def test_power_is_idle_power_and_the_used_share_of_the_rest() -> None:
    assert power_w(SKU, 3, 0.25) == 3 * (10 + 0.25 * 100)


def test_a_gpu_without_units_for_the_models_format_computes_in_bf16() -> None:
    assert peak_flops(SKU, "fp8") == 1000.0
    assert peak_flops(replace(SKU, peak_flops_per_s=()), "fp8") is None


def test_a_gpu_never_draws_more_than_its_peak() -> None:
    used = energy(tiny(Parallelism()), SKU, one_request(1e-9), 4e-9)
    assert used is not None
    assert used.joules == pytest.approx(110 * 4e-9)


def test_two_stages_idle_while_the_other_has_the_batch() -> None:
    """Stage 0 works 0-2, 2-4, 4-5, 6-7, stage 1 2-4, 4-6, 6-7, 7-8: twelve of sixteen seconds."""
    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=2, kv_blocks=1000, block_tokens=1)
    fleet = Fleet(tables_of(stages=2), limits)
    records = simulate(workload_of((0, 2, 2), (1, 2, 2)), fleet, compiled=False)
    assert computed_s(fleet.tables, records) == 12
    assert bubbles(records, 8.0, 12.0) == pytest.approx(0.25)


def test_one_stage_has_no_bubbles() -> None:
    workload, fleet = random_case(2, stages=1)
    fleet = replace(fleet, limits=replace(fleet.limits, async_scheduling=False))
    records = Engine().run(workload, fleet)
    metrics = summarise(records)
    busy_s = metrics.busy * metrics.duration_s
    assert bubbles(records, busy_s, computed_s(fleet.tables, records)) == pytest.approx(0)


def test_normalised_latency_is_the_latency_per_output_token() -> None:
    """Three seconds to the first token and one more to the second."""
    assert samples(one_request(), "normalised_latency").values.tolist() == [2.0]


def poisson(load: float, num_requests: int = 4000) -> Records:
    """One second of service each, one at a time."""
    arrival_s = stream(1, "steady").exponential(1 / load, num_requests).cumsum()
    ones = np.ones(num_requests, np.int64)
    fleet = Fleet(tables_of(), EngineLimits(1, 1, 1000))
    return Engine().run(Workload("queue", arrival_s, ones, ones), fleet)


def test_a_stable_queue_has_a_steady_state_that_ends_with_the_arrivals() -> None:
    records = poisson(0.5)
    window = steady_state(records)
    assert window is not None
    assert window.start_s < 0.5 * window.end_s
    assert window.end_s == records.arrival_s[-1]


def test_a_queue_that_grows_has_none() -> None:
    assert steady_state(poisson(1.5)) is None


def test_a_short_run_has_none() -> None:
    assert steady_state(poisson(0.5, 99)) is None


def test_the_summary_has_every_figure(loader: TableLoader) -> None:
    slos = (Slo("ttft", 90, 1e-9), Slo("e2e", 99, 1e9))
    summary: dict[str, Any] = run(loader, pp=2, slos=slos, carbon_g_per_kwh=400.0).summary
    assert summary["goodput"] == {"attained": 0.0, "requests_per_s": 0.0}
    assert 0 < summary["bubbles"] < 1
    assert 0 < summary["mbu"] < 1
    used = summary["energy"]
    assert used["mean_power_w"] == pytest.approx(used["joules"] / summary["duration_s"])
    idle_w, peak_w = (getattr(shipped_skus()["h100-sxm"], f"power_{k}_w") for k in ("idle", "peak"))
    assert 2 * idle_w < used["mean_power_w"] < 2 * peak_w
    assert summary["prefix_hit_rate"] is None
    assert summary["restarted"] == 0
    assert summary["steady_state"] is None


@pytest.mark.parametrize("seed", [2, 6, 10, 14])
def test_the_stages_times_add_up_to_the_steps(seed: int) -> None:
    workload, fleet = random_case(seed, stages=1)
    fleet = replace(fleet, limits=replace(fleet.limits, async_scheduling=False))
    records = Engine().run(workload, fleet)
    took_s = float((records.end_s - records.start_s).sum())
    assert computed_s(fleet.tables, records) == pytest.approx(took_s)
