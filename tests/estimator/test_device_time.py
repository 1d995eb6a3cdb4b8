"""How long a GPU is busy with a plan: worked by hand, and one model's plan for all its degrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.agent.messages import Settings
from servecast.compiler.catalog import shipped_skus
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelCase
from servecast.compiler.load import load_spec
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.profiling.device_time import device_time
from servecast.estimator.profiling.plan import PlanLimits, plan_cases

SPEC = Path(__file__).parents[2] / "spec"


def linear(rows: int, width: int) -> KernelCase:
    dims = (("in_features", width), ("out_features", width), ("rows", rows))
    return KernelCase("linear", "bf16", "", dims)


def test_a_short_kernel_takes_samples_of_half_a_millisecond_until_a_limit_ends_it(gpu: Sku) -> None:
    time = device_time([linear(1, 64)], gpu, Settings())
    assert time.least_s == pytest.approx(0.05 + (4 + 10) * 0.5e-3)
    assert time.most_s == pytest.approx(0.05 + 4 * 0.5e-3 + 0.25)


def test_a_long_kernel_is_launched_ten_times_however_long_that_takes(gpu: Sku) -> None:
    """2 * 2^42 FLOPs at half of 100 TFLOP/s are 176 ms: ten of them are beyond any limit."""
    launch_s = 5e-6 + 2 * 2**42 / 50e12
    time = device_time([linear(2**14, 2**14)], gpu, Settings())
    assert time.least_s == time.most_s == pytest.approx(0.05 + 14 * launch_s)


def test_who_asks_for_fewer_samples_waits_for_fewer_and_cases_add_up(gpu: Sku) -> None:
    one, some = [linear(1, 64)], [linear(rows, 64) for rows in (1, 2, 4)]
    few = Settings(min_samples=2, max_samples=20)
    assert device_time(one, gpu, few).most_s == pytest.approx(0.05 + (4 + 20) * 0.5e-3)
    assert device_time(some, gpu, few).most_s == pytest.approx(
        3 * device_time(one, gpu, few).most_s
    )


def test_without_a_datasheet_every_launch_counts_as_short(gpu: Sku) -> None:
    long = [linear(2**14, 2**14)]
    assert device_time(long, None, Settings()) == device_time([linear(1, 64)], gpu, Settings())


def test_all_degrees_of_a_model_of_8b_take_ten_minutes_of_an_h100_at_most() -> None:
    program = load_spec(SPEC / "llama.llm").model("llama-3.1-8b")
    cases = plan_cases([shard(program, Parallelism(tp=n)) for n in (1, 2, 4, 8)], PlanLimits())
    assert device_time(cases, shipped_skus()["h100-sxm"], Settings()).most_s < 10 * 60
