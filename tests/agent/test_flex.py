"""FlexAttention over pages: which pages it skips, by hand, and what it computes, against float64."""

from __future__ import annotations

import pytest
import torch

from servecast.agent.cpu import CPU, CpuBackend
from servecast.agent.kernels import with_flex
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Shape, relative_error
from servecast.agent.kernels.reference import SIZES
from servecast.agent.kernels.registry import offers

B = with_flex.BLOCK_TOKENS


@pytest.mark.parametrize(
    ("first", "last", "window", "partly", "whole"),
    [
        (0, 0, 0, [0], []),  # the first token sees its own page, in part
        (B - 1, B - 1, 0, [], [0]),  # the last of a page sees all of it
        (3 * B, 3 * B, 0, [3], [0, 1, 2]),
        (3 * B, 4 * B - 1, 0, [3], [0, 1, 2]),  # of its own page a triangle
        (3 * B, 3 * B, B + 1, [3], [2]),  # a window that begins with page 2
        (3 * B, 3 * B, B, [2, 3], []),  # and one that begins within it
        (3 * B, 3 * B, 1, [3], []),
    ],
)
def test_pages_that_no_query_sees_are_skipped(
    first: int, last: int, window: int, partly: list[int], whole: list[int]
) -> None:
    assert with_flex.seen_in(first, last, window) == (partly, whole)


@pytest.mark.parametrize("window", [0, 1, 100, 300])
@pytest.mark.parametrize(("first", "last"), [(0, 5), (130, 130), (250, 377), (600, 700)])
def test_a_page_is_seen_whole_by_every_query_or_in_part_by_some(
    first: int, last: int, window: int
) -> None:
    partly, whole = with_flex.seen_in(first, last, window)
    for page in range(last // B + 2):
        sees = [
            sum(at - (window or at + 1) < key <= at for key in range(page * B, (page + 1) * B))
            for at in (first, last)
        ]
        assert (page in whole) <= (sees == [B, B])
        assert (page in whole or page in partly) >= any(sees)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code while it compiles
@pytest.mark.parametrize(
    ("kernel", "dims"),
    [
        ("attention_decode_skewed", {"batch": 5, "context": 150, "window": 0}),
        ("attention_prefill", {"batch": 2, "context": 90, "chunk": 140, "window": 100}),
    ],
)
def test_ragged_pages_and_windows_agree_with_float64(kernel: str, dims: dict[str, int]) -> None:
    row = {offer.name: offer.kernel for offer in offers(("flex_attention",), CPU)}[kernel]
    CpuBackend(1).enter(0)
    sizes = {name: SIZES[name] for name in row.dims} | dims
    case = row.prepare(Shape("bf16", "bf16", sizes), Buffers(torch.device("cpu"), 1 << 28, 4096))
    reference = case.reference()
    with torch.inference_mode():
        assert relative_error(case.launches[0](), reference) <= case.tolerance
