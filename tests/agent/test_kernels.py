"""Every kernel computes what its name says: each against the same formula in float64, on the CPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from servecast.agent.cases import UnknownKernelError
from servecast.agent.cpu import CPU, CpuBackend
from servecast.agent.kernels import activation, scaled
from servecast.agent.kernels.attention import attention, seen_keys
from servecast.agent.kernels.buffers import Buffers, DeviceOutOfMemoryError
from servecast.agent.kernels.experts import route
from servecast.agent.kernels.fuse import compiled
from servecast.agent.kernels.kernel import Prepared, Shape, relative_error
from servecast.agent.kernels.paged import Bind, Cache, Paged, prepare_paged
from servecast.agent.kernels.reference import SIZES, check_kernels
from servecast.agent.kernels.registry import KERNELS, installed, offers
from servecast.agent.kernels.skew import popularity, skewed_lengths
from servecast.agent.messages import Outcome, Placement, Settings
from servecast.agent.profiler import Profiler
from servecast.compiler import ir
from servecast.compiler.attention import DeltaAttention
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase, KernelShape, kernel_shapes

MIB = 1 << 20


def buffers(free_bytes: int = 256 * MIB, cache_bytes: int = 4096) -> Buffers:
    return Buffers(torch.device("cpu"), free_bytes, cache_bytes)


def prepared(kernel: str, dtype: str = "bf16", kv_dtype: str = "bf16", **dims: int) -> Prepared:
    sizes = {name: SIZES[name] for name in KERNELS[kernel].dims} | dims
    return KERNELS[kernel].prepare(Shape(dtype, kv_dtype, sizes), buffers())


def error_of(case: Prepared) -> float:
    reference = case.reference()  # before the launch, which may work in place
    with torch.inference_mode():
        return relative_error(case.launches[0](), reference)


CASES = [(kernel, *formats) for kernel, row in KERNELS.items() for formats in row.formats(CPU)]


def test_every_kernel_agrees_with_float64_in_every_format() -> None:
    checks = list(check_kernels(CpuBackend(1), offers(installed("cpu"), CPU)))
    ours = {(c.kernel, c.dtype, c.kv_dtype) for c in checks if c.library == "torch"}
    assert ours == set(CASES)
    assert {c.library for c in checks} == {"torch", "torch_weight_only", "dequantised"}
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(("kernel", "dtype", "kv_dtype"), CASES)
def test_the_check_against_float64_sees_a_wrong_result(
    kernel: str, dtype: str, kv_dtype: str
) -> None:
    case = prepared(kernel, dtype, kv_dtype)
    reference = case.reference()
    with torch.inference_mode():
        assert relative_error(case.launches[0]().double() * 1.2 + 1, reference) > case.tolerance


@pytest.mark.parametrize("window", [0, 1, 6, 100])
@pytest.mark.parametrize("context", [0, 11])
@pytest.mark.parametrize("chunk", [1, 7])
def test_prefill_attends_with_and_without_history_and_window(
    chunk: int, context: int, window: int
) -> None:
    case = prepared(
        "attention_prefill", "fp32", "fp32", chunk=chunk, context=context, window=window
    )
    assert error_of(case) <= case.tolerance


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Query by query, with the definition: position p sees the keys (p - window, p]."""
    out = torch.zeros_like(q)
    chunk, keys = q.shape[2], k.shape[2]
    for i in range(chunk):
        position = keys - chunk + i
        first = max(0, position - window + 1) if window else 0
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            seen = slice(first, position + 1)
            scores = q[:, head, i, None] @ k[:, group, seen].transpose(1, 2) * q.shape[-1] ** -0.5
            out[:, head, i] = (torch.softmax(scores, -1) @ v[:, group, seen])[:, 0]
    return out


@pytest.mark.parametrize(
    ("chunk", "keys", "window"), [(1, 9, 0), (4, 9, 0), (9, 9, 0), (4, 9, 3), (9, 9, 3)]
)
def test_attention_is_causal_grouped_and_windowed_by_definition(
    chunk: int, keys: int, window: int
) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, chunk, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, keys, 8, dtype=torch.float64)
    found = attention(chunk, keys, window, buffers())(q, k, v)
    torch.testing.assert_close(found, naive_attention(q, k, v, window))


@pytest.mark.parametrize(
    ("keys", "chunk", "window"), [(18, 7, 6), (18, 1, 6), (5, 5, 6), (9, 4, 0)]
)
def test_no_more_of_the_cache_is_touched_than_some_query_sees(
    keys: int, chunk: int, window: int
) -> None:
    positions = range(keys - chunk, keys)
    first = min(max(0, position - window + 1) if window else 0 for position in positions)
    assert seen_keys(keys, chunk, window) == keys - first


def every_operator() -> list[KernelShape]:
    """Kernels of one operator of each kind in the IR, collectives aside."""
    operators: list[ir.Operator] = [
        ir.Linear(256, 64),
        *(ir.Norm(kind, 96, adds_residual=True) for kind in ir.NormKind),
        ir.Rope(8, 32, 16),
        *(ir.Activation(kind, 96) for kind in ir.ActivationKind),
        ir.Add(96),
        ir.Embedding(80, 96),
        ir.Router(64, 8, 2),
        ir.Experts(64, 48, 4, 8, 2),
        ir.KvWrite(96),
        ir.Sample(80),
        ir.Attention(8, 2, 32),
        ir.LatentAttention(8, 32, 16, 24, 24),
        DeltaAttention(8, 4, 32),
    ]
    return [shape for operator in operators for shape in kernel_shapes(operator)]


@pytest.mark.parametrize("shape", every_operator(), ids=lambda shape: shape.kernel)
def test_every_operator_of_the_ir_has_a_kernel_with_its_axes(shape: KernelShape) -> None:
    swept = {"rows", "batch", "context", "chunk"} & set(KERNELS[shape.kernel].dims)
    case = shape.case(**dict.fromkeys(swept, 1))
    assert {name for name, _ in case.dims} == set(KERNELS[shape.kernel].dims)


def test_weights_rotate_over_twice_the_cache_and_are_not_the_same_tensor() -> None:
    row = KERNELS["linear"]
    sizes = {"rows": 1, "in_features": 64, "out_features": 64}
    case = row.prepare(Shape("bf16", "", sizes), buffers(cache_bytes=10 * 64 * 64 * 2))
    assert len(case.launches) == 20


def test_a_case_that_does_not_fit_is_refused_before_it_is_allocated() -> None:
    row = KERNELS["linear"]
    sizes = {"rows": 1, "in_features": 1 << 20, "out_features": 1 << 20}
    with pytest.raises(
        DeviceOutOfMemoryError, match=r"^needs 219902\d+ bytes, cpu has 241591910 to spare$"
    ):
        row.prepare(Shape("bf16", "", sizes), buffers())


def test_inputs_are_random_and_never_zeros() -> None:
    filled = buffers().normal(1000, dtype=torch.bfloat16)
    assert filled.double().std().item() == pytest.approx(1.0, abs=0.1)
    assert int((filled == 0).sum()) < 10
    assert buffers().normal(1000, dtype=torch.int8).unique().numel() > 50


def test_no_two_tensors_of_a_case_are_alike() -> None:
    some = buffers()
    first, second = (some.normal(100, dtype=torch.float32) for _ in range(2))
    assert not torch.equal(first, second)


def test_uniform_routing_gives_each_row_distinct_experts_and_this_rank_its_share() -> None:
    sizes = SIZES | {"rows": 400, "experts": 2, "total_experts": 8, "top_k": 4}
    routing = route(Shape("bf16", "", sizes), buffers())
    assert len(routing.rows) == int(routing.ends[-1])
    assert len(routing.rows) == pytest.approx(400 * 4 * 2 / 8, rel=0.1)
    for expert_rows in routing.rows.tensor_split(routing.ends[:-1].long()):
        assert len(expert_rows.unique()) == len(expert_rows)


def test_skewed_routing_draws_experts_by_their_popularity() -> None:
    sizes = SIZES | {"rows": 4000, "experts": 4, "total_experts": 4, "top_k": 1}
    routing = route(Shape("bf16", "", sizes), buffers(), popularity(4))
    counts = routing.ends.diff(prepend=torch.zeros(1, dtype=torch.int32))
    for found, share in zip(counts.tolist(), popularity(4), strict=True):
        assert found / 4000 == pytest.approx(share, abs=3 * (share * (1 - share) / 4000) ** 0.5)


def test_experts_that_nobody_chose_change_nothing() -> None:
    case = prepared("experts_skewed", "fp32", rows=2, experts=8, total_experts=8, top_k=1)
    assert error_of(case) <= case.tolerance


def test_experts_launched_together_or_one_by_one_compute_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("torch.nn.functional.grouped_mm", raising=False)  # as before PyTorch 2.10
    case = prepared("experts_skewed", "fp32")
    assert error_of(case) <= case.tolerance


@pytest.mark.parametrize(
    ("batch", "context", "lengths"),
    [
        (1, 7, [7]),
        (2, 10, [10, 10]),  # half of the tokens are one sequence's share already
        (4, 10, [20, 7, 7, 6]),
        (16, 2, [8, 8, 2, 2, *[1] * 12]),
    ],
)
def test_one_sequence_in_eight_holds_half_of_a_skewed_batchs_tokens(
    batch: int, context: int, lengths: list[int]
) -> None:
    assert skewed_lengths(batch, context) == lengths


@pytest.mark.parametrize("window", [0, 1, 5, 40])
@pytest.mark.parametrize("chunk", [1, 6])
@pytest.mark.parametrize("batch", [1, 5])
def test_sequences_of_different_lengths_attend_to_their_own_pages_and_window(
    batch: int, chunk: int, window: int
) -> None:
    kept: list[tuple[Paged, Cache]] = []

    def library(paged: Paged, some: Buffers) -> Bind:
        return lambda cache: kept.append((paged, cache)) or (lambda: paged.q)  # type: ignore[func-returns-value]  # a spy

    dims = {"batch": batch, "context": 37, "chunk": chunk, "window": window}
    dims |= {"heads": 4, "kv_heads": 2, "head_dim": 8}
    shape = Shape("fp32", "fp32", dims)
    found = prepare_paged(library, skewed_lengths, 16, shape, buffers()).reference()
    paged, cache = kept[0]
    for number, length in enumerate(paged.lengths):
        own = [part[paged.tables[number].long()].flatten(0, 1)[:length].double() for part in cache]
        k, v = (part.transpose(0, 1)[None] for part in own)
        rows = slice(number * chunk, (number + 1) * chunk)
        expected = naive_attention(paged.q[rows].double().transpose(0, 1)[None], k, v, window)
        torch.testing.assert_close(found[rows], expected[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", ["fp8", "fp8_block", "nvfp4", "mxfp4"])
def test_a_format_without_units_here_is_refused_with_the_reason(dtype: str) -> None:
    profiler = Profiler(CpuBackend(1), "cpu")
    dims = (("in_features", 256), ("out_features", 256), ("rows", 16))
    reason = KERNELS["linear"].lacks[dtype]
    with pytest.raises(
        UnknownKernelError,
        match=rf"^linear: no dtype '{dtype}' on this node: {reason}; it has: bf16",
    ):
        profiler.check(KernelCase("linear", dtype, "", dims), Settings(), Placement())


def test_attention_over_a_cache_that_pytorch_cannot_read_is_refused_and_not_measured_as_another() -> (
    None
):
    profiler = Profiler(CpuBackend(1), "cpu")
    dims = tuple(sorted((name, SIZES[name]) for name in KERNELS["attention_decode"].dims))
    for kv_dtype, words in (
        ("fp8", "reads no cache of it"),
        ("fp16", "it has with dtype bf16: bf16"),
    ):
        case = KernelCase("attention_decode", "bf16", kv_dtype, dims)
        with pytest.raises(UnknownKernelError, match=words):
            profiler.check(case, Settings(), Placement())


def test_an_fp8_gemm_computes_what_it_says_where_a_processor_emulates_it() -> None:
    sizes = {"rows": 16, "in_features": 256, "out_features": 128}
    case = scaled.prepare_fp8(Shape("fp8", "", sizes), buffers())
    assert error_of(case) <= case.tolerance


def test_a_library_that_is_unknown_or_not_here_is_one_sentence() -> None:
    with pytest.raises(AgentError, match=r"^no library 'triton'; an agent knows torch, flashinfer"):
        offers(("triton",), CPU)
    with pytest.raises(
        AgentError, match=r"^flashinfer is not here: its kernels run on cuda devices"
    ):
        offers(("flashinfer",), CPU)


def test_the_first_library_that_has_a_format_answers_for_it() -> None:
    backend = CpuBackend(1)
    both = [
        Profiler(backend, "cpu", offers(names, CPU))
        for names in (("torch", "torch_weight_only"), ("torch_weight_only", "torch"))
    ]
    dims = (("in_features", 64), ("out_features", 64), ("rows", 2))
    quick = Settings(min_samples=2, max_case_s=0.01)
    for dtype, libraries in (
        ("int8", ["torch", "torch_weight_only"]),
        ("bf16", ["torch", "torch"]),
    ):
        case = KernelCase("linear", dtype, "", dims)
        ends = [[*p.profile(case, quick, Placement(), lambda: False)][-1] for p in both]
        assert [end.library for end in ends if isinstance(end, Outcome)] == libraries


@pytest.mark.slow
def test_vllms_own_kernels_agree_with_float64(tmp_path: Path) -> None:
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        pytest.skip("SERVECAST_VLLM_PYTHON names no Python with vLLM: its kernels were not checked")
    (tmp_path / "servecast").mkdir()
    for name in ("agent", "compiler", "protos"):
        (tmp_path / "servecast" / name).symlink_to(Path(__file__).parents[2] / name)
    command = [
        python,
        "-m",
        "servecast.agent.cli",
        "check",
        "--backend",
        "cpu",
        "--library",
        "vllm",
    ]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    kernels = {line.split()[0] for line in done.stdout.splitlines() if " vllm " in line}
    assert {"linear", "attention_prefill", "attention_decode", "attention_decode_skewed"} <= kernels


def test_the_weights_of_a_rows_experts_add_up_to_one() -> None:
    sizes = SIZES | {"rows": 9, "experts": 8, "total_experts": 8, "top_k": 4}
    routing = route(Shape("bf16", "", sizes), buffers())
    total = torch.zeros(9, 1).index_add_(0, routing.rows, routing.weights)
    torch.testing.assert_close(total, torch.ones(9, 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code while it compiles
def test_a_formula_compiled_for_a_gpu_computes_the_same_for_every_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activation, "fused", lambda function, device: compiled(function))
    for rows in (1, 5, 64):
        case = prepared("swiglu", "bf16", rows=rows)
        assert error_of(case) <= case.tolerance
