"""On a GPU only: kernels against float64, times against others' benchmarks, speeds against the datasheet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from servecast.agent.client import Agent
from servecast.agent.kernels.kernel import Shape
from servecast.agent.kernels.reference import check_kernels
from servecast.agent.kernels.registry import KERNELS
from servecast.agent.messages import Outcome, Placement, Settings, Status
from servecast.agent.profiler import Profiler
from servecast.compiler.kernels import KernelCase

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def profiler() -> Iterator[Profiler]:
    """The first GPU; without one the test skips."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    from servecast.agent.serve import make_profiler

    profiler = make_profiler("cuda", "", None)
    yield profiler
    profiler.close()


def case(kernel: str, dtype: str = "bf16", kv_dtype: str = "", **dims: int) -> KernelCase:
    return KernelCase(kernel, dtype, kv_dtype, tuple(sorted(dims.items())))


def linear(rows: int, width: int, dtype: str = "bf16") -> KernelCase:
    return case("linear", dtype, rows=rows, in_features=width, out_features=width)


def measure(profiler: Profiler, wanted: KernelCase, settings: Settings = Settings()) -> Outcome:  # noqa: B008
    *_, last = profiler.profile(wanted, settings, Placement(), lambda: False)
    assert isinstance(last, Outcome)
    return last


def mean_us(outcome: Outcome) -> float:
    assert outcome.statistics is not None, outcome.message
    return outcome.statistics.mean_us


def test_every_kernel_agrees_with_float64_in_every_format(profiler: Profiler) -> None:
    assert [
        check for check in check_kernels(profiler.backend, profiler.offered) if not check.passed
    ] == []


TEN_CASES = [
    *(linear(rows, 4096) for rows in (1, 64, 1024, 8192)),
    *(case("swiglu", rows=rows, width=14336) for rows in (64, 4096)),
    *(case("rms_norm", rows=rows, width=8192, per_row=1, residual=0) for rows in (64, 4096)),
    *(
        case("attention_prefill", "bf16", "bf16", heads=32, kv_heads=8, head_dim=128, window=0,
             batch=1, context=0, chunk=chunk)
        for chunk in (1024, 8192)
    ),
]  # fmt: skip


@pytest.mark.parametrize("wanted", TEN_CASES, ids=str)
def test_eager_times_agree_with_tritons_benchmark_within_three_percent(
    profiler: Profiler, wanted: KernelCase
) -> None:
    testing = pytest.importorskip("triton.testing")
    ours = mean_us(measure(profiler, wanted, Settings(method="cuda_graph")))
    shape = Shape(wanted.dtype, wanted.kv_dtype, dict(wanted.dims))
    prepared = KERNELS[wanted.kernel].prepare(shape, profiler.backend.buffers(0))
    with torch.inference_mode():
        theirs = testing.do_bench_cudagraph(lambda: [f() for f in prepared.launches]) * 1e3
    assert ours == pytest.approx(theirs / len(prepared.launches), rel=0.03)


def test_no_gemm_beats_the_tensor_cores(profiler: Profiler) -> None:
    from servecast.compiler.catalog import shipped_skus

    peak = shipped_skus()[profiler.sku].peak("bf16")
    assert peak is not None
    assert 2 * 8192**3 / (mean_us(measure(profiler, linear(8192, 8192))) * 1e-6) <= peak


def test_no_cold_matrix_is_read_faster_than_memory_gives_it(profiler: Profiler) -> None:
    from servecast.compiler.catalog import shipped_skus

    bandwidth = shipped_skus()[profiler.sku].bandwidth_bytes_per_s
    assert 2 * 8192**2 / (mean_us(measure(profiler, linear(1, 8192))) * 1e-6) <= bandwidth


def test_a_graph_is_never_slower_than_eager_launches_of_a_short_kernel(profiler: Profiler) -> None:
    wanted = case("swiglu", rows=1, width=4096)
    graph, eager = (
        mean_us(measure(profiler, wanted, Settings(method=method)))
        for method in ("cuda_graph", "cuda_eager")
    )
    assert graph <= eager * 1.03


def test_an_outcome_tells_clocks_power_and_the_hosts_launch_time(profiler: Profiler) -> None:
    outcome = measure(profiler, linear(64, 4096))
    assert outcome.host_launch_us is not None
    assert outcome.before.clock_mhz is not None
    assert outcome.after.power_w is not None


def test_out_of_memory_is_an_outcome_and_frees_what_it_took(profiler: Profiler) -> None:
    free, _ = torch.cuda.mem_get_info(0)
    assert measure(profiler, linear(1, 1 << 19)).status is Status.OUT_OF_MEMORY
    assert torch.cuda.mem_get_info(0)[0] >= free - (64 << 20)
    assert measure(profiler, linear(1, 4096)).status is Status.MEASURED


def test_an_agent_on_the_gpu_answers_over_grpc(profiler: Profiler) -> None:
    from servecast.agent.server import create_server

    server = create_server(profiler, "127.0.0.1", 0)
    server.start()
    with Agent(f"127.0.0.1:{server.port}") as agent:
        assert agent.describe().backend == "cuda"
    server.server.stop(0).wait()
