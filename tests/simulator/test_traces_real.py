"""The public traces, read whole, and the trace that ships."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.traces import TraceOptions, read_trace

REPOSITORY = Path(__file__).resolve().parents[2]
CHAT = REPOSITORY / "spec" / "traces" / "chat.csv"


@pytest.mark.parametrize(
    ("name", "num_requests", "prompt_p50", "output_p50", "max_prompt"),
    [
        ("azure-2023-conv.csv", 19_366, 1_020, 129, 14_050),
        ("azure-2023-code.csv", 8_819, 1_469, 13, 7_437),
        ("mooncake-conversation.jsonl", 12_031, 6_909, 350, 126_195),
    ],
)
def test_a_public_trace_is_read_whole(
    shared_data: Path,
    name: str,
    num_requests: int,
    prompt_p50: int,
    output_p50: int,
    max_prompt: int,
) -> None:
    workload = read_trace(shared_data / "traces" / name)
    assert workload.origin is not None
    assert (len(workload), workload.origin.rejected) == (num_requests, ())
    assert np.median(workload.prompt_tokens) == prompt_p50
    assert np.median(workload.output_tokens) == output_p50
    assert workload.prompt_tokens.max() == max_prompt
    assert 3_400 < workload.span_s < 3_600


def test_the_prefix_blocks_of_a_public_trace_cover_each_prompt(shared_data: Path) -> None:
    workload = read_trace(shared_data / "traces" / "mooncake-conversation.jsonl")
    assert workload.prefix is not None
    assert (np.diff(workload.prefix.offsets) == -(-workload.prompt_tokens // 512)).all()


def test_lengths_without_arrivals_are_read_whole(shared_data: Path) -> None:
    path = shared_data / "traces" / "vidur-arxiv-summarization-lengths.csv"
    workload = read_trace(path, TraceOptions(rate_per_s=3))
    assert len(workload) == 28_257
    assert workload.rate_per_s == pytest.approx(3)


def test_the_trace_that_ships_is_reproduced_byte_for_byte() -> None:
    script = runpy.run_path(str(REPOSITORY / "benchmarks" / "make_example_trace.py"))
    assert CHAT.read_bytes() == script["trace"]().encode()


def test_the_trace_that_ships_has_the_statistics_it_is_drawn_from() -> None:
    summary = describe(read_trace(CHAT))
    assert summary.num_requests == 2_000
    assert summary.prompt_tokens.p50 == pytest.approx(1_020, rel=0.06)
    assert summary.output_tokens.p50 == pytest.approx(129, rel=0.06)
    assert summary.prompt_tokens.p90 == pytest.approx(2_734, rel=0.08)
    assert summary.output_tokens.p90 == pytest.approx(424, rel=0.08)
    assert summary.rate_per_s == pytest.approx(12, rel=0.15)
    assert summary.gap_cv == pytest.approx(1.5, rel=0.1)
