"""Linear attention by the gated delta rule: by hand, and whole pieces against one token at a time."""

from __future__ import annotations

import pytest
import torch

from servecast.agent.kernels import delta
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Kernel, Shape, relative_error


def buffers() -> Buffers:
    return Buffers(torch.device("cpu"), 1 << 28, 4096)


def error_of(kernel: Kernel, dtype: str, launch: int = 0, **dims: int) -> tuple[float, float]:
    """The error of a launch and its tolerance."""
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16, "batch": 2} | dims
    case = kernel.prepare(Shape(dtype, "fp32", sizes), buffers())
    reference = case.reference()
    with torch.inference_mode():
        return relative_error(case.launches[launch](), reference), case.tolerance


def one_head(rate: float, decay: float, keys: list[float]) -> tuple[delta.Layer, torch.Tensor]:
    """Two tokens of one head of one number, whose convolution passes the last token on alone."""
    rows = torch.zeros(1, 3, delta.CONV_WIDTH + 1, dtype=torch.float64)
    rows[0, :, -2:] = torch.tensor([[1.0, 1.0], keys, [3.0, 5.0]])
    only_last = torch.tensor([[0.0, 0.0, 0.0, 1.0]] * 3, dtype=torch.float64)
    told = (torch.full((1, 1, 2), x, dtype=torch.float64) for x in (decay, rate))
    shape = Shape("fp32", "fp32", {"heads": 1, "kv_heads": 1, "head_dim": 1, "batch": 1})
    return delta.Layer(shape, rows, only_last, *told), torch.ones(1, 1, 1, 1, dtype=torch.float64)


def test_the_rule_worked_by_hand() -> None:
    """Queries and keys of one number have length one: the state is what the last value was, or part of it."""
    layer, state = one_head(rate=0.5, decay=0.0, keys=[1.0, 1.0])
    first, second = (torch.nn.functional.silu(torch.tensor(x)).item() for x in (3.0, 5.0))
    after_one = 1.0 + 0.5 * (first - 1.0)
    after_two = after_one + 0.5 * (second - after_one)
    found = delta.token_by_token(layer, state).flatten().tolist()
    assert found == pytest.approx([after_one, after_two], rel=1e-6)
    assert state.item() == 1.0


def test_a_decay_forgets_and_a_rate_of_one_replaces() -> None:
    layer, state = one_head(rate=1.0, decay=-50.0, keys=[1.0, 1.0])
    second = torch.nn.functional.silu(torch.tensor(5.0)).item()
    assert delta.token_by_token(layer, state).flatten()[1].item() == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 63, 64, 65, 150])
def test_whole_pieces_compute_what_one_token_at_a_time_does(chunk: int) -> None:
    error, tolerance = error_of(delta.PREFILL, "fp32", chunk=chunk)
    assert error <= tolerance


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("kernel", [delta.PREFILL, delta.DECODE], ids=["prefill", "decode"])
def test_every_format_agrees_with_float64(kernel: Kernel, dtype: str) -> None:
    dims = {"chunk": 70} if "chunk" in kernel.dims else {}
    error, tolerance = error_of(kernel, dtype, **dims)
    assert error <= tolerance


def test_states_are_found_cold_and_written_to() -> None:
    shape = Shape("bf16", "fp32", {"heads": 4, "kv_heads": 2, "head_dim": 16, "batch": 2})
    case = delta.DECODE.prepare(shape, Buffers(torch.device("cpu"), 1 << 28, 1 << 16))
    assert len(case.launches) > 1
    with torch.inference_mode():
        first, again = case.launches[0](), case.launches[0]()
    assert not torch.equal(first, again), "the second token finds the state that the first one left"
