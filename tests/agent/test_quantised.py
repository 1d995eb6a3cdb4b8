"""Quantised weights and caches that the launch widens first: by hand, and against float64."""

from __future__ import annotations

import pytest
import torch

from servecast.agent.cpu import CPU, CpuBackend
from servecast.agent.kernels import dequantised
from servecast.agent.kernels.attention import widened
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Prepared, Shape, relative_error
from servecast.agent.kernels.quantised import WIDEN, drawn, from_e2m1, halves
from servecast.agent.kernels.reference import SIZES, check_kernels
from servecast.agent.kernels.registry import ON_DEMAND, installed, offers

CASES = [
    (name, *formats) for name, row in dequantised.KERNELS.items() for formats in row.formats(CPU)
]


def buffers() -> Buffers:
    return Buffers(torch.device("cpu"), 1 << 28, 4096)


def prepared(kernel: str, dtype: str, kv_dtype: str = "", **dims: int) -> Prepared:
    row = dequantised.KERNELS[kernel]
    sizes = {name: SIZES[name] for name in row.dims} | dims
    return row.prepare(Shape(dtype, kv_dtype, sizes), buffers())


def error_of(case: Prepared, factor: float = 1.0) -> float:
    reference = case.reference()
    with torch.inference_mode():
        return relative_error(case.launches[0]().double() * factor, reference)


def test_every_quantised_kernel_agrees_with_float64() -> None:
    checks = list(check_kernels(CpuBackend(1), offers(("dequantised",), CPU)))
    assert {(c.kernel, c.dtype, c.kv_dtype) for c in checks} == set(CASES)
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize(("kernel", "dtype", "kv_dtype"), CASES)
def test_the_check_against_float64_sees_a_wrong_result(
    kernel: str, dtype: str, kv_dtype: str
) -> None:
    case = prepared(kernel, dtype, kv_dtype)
    assert error_of(case, factor=1.2) > case.tolerance


def wide(name: str, codes: torch.Tensor, scales: torch.Tensor) -> list[list[float]]:
    found: list[list[float]] = WIDEN[name](codes[None], scales[None], torch.float64)[0].tolist()
    return found


def test_two_e2m1_numbers_are_read_from_a_byte_low_half_first() -> None:
    packed = torch.tensor([[0x21, 0xF7]], dtype=torch.uint8)
    assert from_e2m1(packed).tolist() == [[0.5, 1.0, 6.0, -6.0]]
    assert halves(packed).tolist() == [[1, 2, 7, 15]]


def test_mxfp4_has_a_power_of_two_for_each_32_numbers() -> None:
    codes = torch.full((1, 32), 0x21, dtype=torch.uint8)  # 0.5, 1.0, …
    scales = torch.tensor([[128, 126]], dtype=torch.uint8)  # 2^1, 2^-1
    assert wide("mxfp4", codes, scales) == [[1.0, 2.0] * 16 + [0.25, 0.5] * 16]


def test_nvfp4_has_an_fp8_scale_for_each_16_numbers() -> None:
    codes = torch.full((1, 16), 0xF7, dtype=torch.uint8)  # 6, -6, …
    scales = torch.tensor([[0.5, 2.0]]).to(torch.float8_e4m3fn)
    assert wide("nvfp4", codes, scales) == [[3.0, -3.0] * 8 + [12.0, -12.0] * 8]


def test_int4_is_centred_on_eight_and_its_last_group_may_be_short() -> None:
    codes = torch.full((1, 24), 0x80, dtype=torch.uint8)  # 0 and 8
    scales = torch.tensor([[1.0, 10.0]], dtype=torch.bfloat16)
    assert wide("int4_g32", codes, scales) == [[-8.0, 0.0] * 16 + [-80.0, 0.0] * 8]


def test_fp8_block_has_a_scale_for_each_square_of_128_and_those_at_the_edges() -> None:
    codes = torch.ones(129, 130).to(torch.float8_e4m3fn)
    found = torch.tensor(wide("fp8_block", codes, torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert found[127, 127] == 1.0
    assert found[127, 128] == 2.0
    assert found[128, 0] == 3.0
    assert found[128, 129] == 4.0


def test_int8_has_a_scale_for_each_output() -> None:
    codes = torch.tensor([[2, -3], [4, 5]], dtype=torch.int8)
    assert wide("int8", codes, torch.tensor([[1.0], [0.5]])) == [[2.0, -3.0], [2.0, 2.5]]


@pytest.mark.parametrize("name", WIDEN)
def test_drawn_weights_are_random_and_none_of_their_scales_is_zero(name: str) -> None:
    weights = drawn(name, (2, 256, 512), buffers())
    numbers = WIDEN[name](weights.codes, weights.scales, torch.float64)
    assert numbers.shape == (2, 256, 512)
    assert numbers.std() > 0
    assert numbers.isfinite().all()
    assert len(set(numbers[0, 0].tolist())) > 8
    rows = numbers.abs().amax(dim=-1)
    assert (rows > 0).all()


def test_only_experts_that_some_row_chose_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    widen, matrices = WIDEN["mxfp4"], []

    def counted(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        matrices.append(len(codes))
        return widen(codes, scales, dtype)

    monkeypatch.setitem(WIDEN, "mxfp4", counted)
    case = prepared("experts", "mxfp4", rows=1, experts=8, total_experts=8, top_k=2)
    case.launches[0]()
    assert matrices == [2, 2]
    assert error_of(case) <= case.tolerance


def test_an_int8_cache_is_worth_a_thirty_second_of_its_codes() -> None:
    cache = torch.tensor([64, -32], dtype=torch.int8)
    assert widened(cache, torch.bfloat16).tolist() == [2.0, -1.0]
    same = torch.ones(2)
    assert widened(same, torch.float32) is same


@pytest.mark.parametrize("window", [0, 24])
@pytest.mark.parametrize("kernel", ["attention_prefill", "attention_decode_skewed"])
def test_a_quantised_cache_keeps_its_window(kernel: str, window: int) -> None:
    case = prepared(kernel, "bf16", "fp8", window=window)
    assert error_of(case) <= case.tolerance


def test_a_processor_widens_by_itself_and_a_gpu_only_where_it_is_asked_to() -> None:
    assert "dequantised" in installed("cpu")
    assert "dequantised" not in installed("cuda")
    assert not set(installed("cpu")) & {"vllm", "flex_attention"}
    assert set(ON_DEMAND) == {"vllm", "flex_attention", "dequantised"}
