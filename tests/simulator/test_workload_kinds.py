"""Kinds of traffic against the statistics they are drawn from, and scaling against what it must keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.arrival_processes import Poisson
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.kinds import KINDS, Draw, Lengths, draw_workload
from servecast.simulator.traffic.scaling import scaled
from servecast.simulator.traffic.shape import (
    arrival_counts,
    length_histogram,
    prefix_summary,
    rank_correlation,
)
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.traces import TraceOptions, read_trace, write_trace
from servecast.simulator.traffic.workload import PrefixBlocks, Workload


def drawn(name: str, num_requests: int = 20_000, seed: int = 0) -> Workload:
    return draw_workload(name, Draw(num_requests, 2.0, Poisson(), seed))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_the_percentiles_that_are_published(name: str) -> None:
    kind, workload = KINDS[name], drawn(name)
    for lengths, tokens in (
        (kind.prompt, workload.prompt_tokens),
        (kind.output, workload.output_tokens),
    ):
        assert np.percentile(tokens, 50) == pytest.approx(lengths.p50, rel=0.05)
        assert np.percentile(tokens, 90) == pytest.approx(min(lengths.p90, lengths.most), rel=0.05)
        assert tokens.min() >= 1
        assert tokens.max() <= lengths.most


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("chat", "azure-2023-conv.csv"),
        ("code", "azure-2023-code.csv"),
        ("summarisation", "vidur-arxiv-summarization-lengths.csv"),
    ],
)
def test_the_percentiles_are_those_of_the_trace_that_is_named(
    name: str, file: str, shared_data: Path
) -> None:
    options = TraceOptions(rate_per_s=1.0, arrival_cv=1.0)
    trace = read_trace(shared_data / "traces" / file, options)
    for lengths, tokens in (
        (KINDS[name].prompt, trace.prompt_tokens),
        (KINDS[name].output, trace.output_tokens),
    ):
        assert np.percentile(tokens, [50, 90]) == pytest.approx([lengths.p50, lengths.p90], abs=0.6)
        assert tokens.max() <= lengths.most


def test_agentic_lengths_vary_as_in_mooncake_s_conversations(shared_data: Path) -> None:
    """And prompts say next to nothing of outputs there, which is why kinds draw them independently."""
    trace = read_trace(shared_data / "traces" / "mooncake-conversation.jsonl")
    prompt, output = trace.prompt_tokens, trace.output_tokens
    assert prompt.std() / prompt.mean() == pytest.approx(1.3, abs=0.05)
    assert output.std() / output.mean() == pytest.approx(0.7, abs=0.05)
    assert rank_correlation(prompt, output) == pytest.approx(0.07, abs=0.005)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_names_its_source_and_equal_seeds_repeat_it(name: str) -> None:
    assert KINDS[name].source
    once, again = drawn(name, 50, seed=3), drawn(name, 50, seed=3)
    assert (once.prompt_tokens == again.prompt_tokens).all()
    assert (once.prompt_tokens != drawn(name, 50, seed=4).prompt_tokens).any()
    assert once.rate_per_s == pytest.approx(2.0)


def test_lengths_of_a_mean_have_it() -> None:
    tokens = Lengths.of_mean(500, cv=0.5, most=10**6).draw(40_000, stream(0, "test"))
    assert abs(tokens.mean() - 500) < 4 * 250 / np.sqrt(len(tokens))
    assert tokens.std() / tokens.mean() == pytest.approx(0.5, rel=0.05)


def test_agentic_prompts_share_their_beginnings_and_nothing_else() -> None:
    workload = drawn("agentic")
    summary = prefix_summary(workload)
    assert summary is not None
    assert summary.token_share == pytest.approx(0.59, abs=0.06)  # each text's first use is a miss
    assert workload.prefix is not None
    assert (np.diff(workload.prefix.offsets) == -(-workload.prompt_tokens // 512)).all()


def test_a_block_that_two_prompts_share_is_whole_and_in_the_same_place_in_both() -> None:
    workload = drawn("agentic", 3_000)
    assert workload.prefix is not None
    offsets, ids = workload.prefix.offsets, workload.prefix.ids
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], np.diff(offsets))
    ends = (place + 1) * 512 > np.repeat(workload.prompt_tokens, np.diff(offsets))
    _, block, uses = np.unique(ids, return_inverse=True, return_counts=True)
    assert (uses[block[ends]] == 1).all()
    first = np.full(len(uses), -1)
    first[block[::-1]] = place[::-1]
    assert (first[block] == place).all()


def test_the_kinds_differ_where_a_deployment_feels_it() -> None:
    ratio = {
        name: drawn(name).prompt_tokens.sum() / drawn(name).output_tokens.sum() for name in KINDS
    }
    assert ratio["reasoning"] < ratio["translation"] < 1 < ratio["chat"]
    assert ratio["chat"] < ratio["summarisation"] < ratio["agentic"] < ratio["code"]


def test_no_requests_are_refused() -> None:
    with pytest.raises(UserError, match="chat: 0 requests; ask for 1 to 10,000,000"):
        draw_workload("chat", Draw(0, 1.0, Poisson()))


small = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=8)


def requests(lengths: list[tuple[int, int]], block_tokens: int = 4) -> Workload:
    """Requests a second apart, with blocks of their own that cover each prompt."""
    prompt = np.array([p for p, _ in lengths])
    offsets = np.concatenate(([0], np.cumsum(-(-prompt // block_tokens))))
    prefix = PrefixBlocks(block_tokens, offsets, np.arange(offsets[-1]))
    arrival_s = np.arange(len(lengths), dtype=np.float64)
    return Workload("t", arrival_s, prompt, np.array([o for _, o in lengths]), prefix=prefix)


@given(lengths=small, factor=st.sampled_from([1.0, 1.5, 2.0, 7.0]))
def test_longer_requests_have_the_rank_correlation_that_they_had(
    lengths: list[tuple[int, int]], factor: float
) -> None:
    before = requests(lengths)
    after = scaled(before, prompt=2.0, output=factor)
    assert describe(after).length_correlation == describe(before).length_correlation


@given(lengths=small, factor=st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 7.0]))
def test_scaled_prompts_keep_their_order_and_their_blocks(
    lengths: list[tuple[int, int]], factor: float
) -> None:
    before = requests(lengths)
    after = scaled(before, prompt=factor)
    assert after.prompt_tokens.tolist() == [int(np.ceil(p * factor)) for p, _ in lengths]
    assert (after.output_tokens == before.output_tokens).all()
    assert (after.arrival_s == before.arrival_s).all()
    assert after.prefix is not None
    blocks = -(-after.prompt_tokens // after.prefix.block_tokens)
    assert (np.diff(after.prefix.offsets) == blocks).all()
    by_length = np.argsort(before.prompt_tokens)
    assert (np.diff(after.prompt_tokens[by_length]) >= 0).all()


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.0, "prompt lengths cannot be scaled by 0; the factor is above 0"),
        (1e9, "no request becomes longer than 999,999,999 tokens"),
        (0.3, "blocks of 4 tokens, which times 0.3 is no whole number"),
    ],
)
def test_a_factor_that_makes_no_request_is_refused(factor: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaled(requests([(5, 5)]), prompt=factor)


@given(lengths=small)
def test_json_lines_keep_the_prefixes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("saved") / "t.jsonl"
    written = requests([(p * 100, o) for p, o in lengths], block_tokens=512)
    write_trace(written, path)
    back = read_trace(path)
    assert back.arrival_s == pytest.approx(written.arrival_s, abs=1e-6)
    assert back.prompt_tokens.tolist() == written.prompt_tokens.tolist()
    assert back.prefix is not None
    assert written.prefix is not None
    assert back.prefix.ids.tolist() == written.prefix.ids.tolist()


def test_json_lines_without_prefixes_are_refused(tmp_path: Path) -> None:
    bare = replace(requests([(5, 5)]), prefix=None)
    with pytest.raises(UserError, match=r"has no prefix blocks; save it as \.csv"):
        write_trace(bare, tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="has blocks of 4 tokens"):
        write_trace(requests([(5, 5)]), tmp_path / "t.jsonl")
    assert list(tmp_path.iterdir()) == []


@given(lengths=small)
def test_histograms_and_counts_hold_every_request(lengths: list[tuple[int, int]]) -> None:
    workload = requests(lengths)
    histogram = length_histogram(workload.prompt_tokens)
    assert sum(histogram.counts) == len(workload)
    assert len(histogram.edges) == len(histogram.counts) + 1 <= 41
    counts = arrival_counts(workload)
    if counts is not None:
        assert sum(counts.counts) == len(workload)
        assert counts.window_s * len(counts.counts) == pytest.approx(workload.span_s)


def test_a_rank_correlation_worked_by_hand() -> None:
    assert rank_correlation(np.array([1, 2, 3]), np.array([10, 900, 901])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 x 5).
    tied = rank_correlation(np.array([7, 7, 9, 11]), np.array([1, 2, 3, 4]))
    assert tied == pytest.approx(np.sqrt(0.9))
    assert rank_correlation(np.array([7, 7]), np.array([1, 2])) is None


def test_what_prompts_share_worked_by_hand() -> None:
    """The second prompt finds both whole blocks of the first but must compute its own last token."""
    prefix = PrefixBlocks(4, np.array([0, 2, 4]), np.array([1, 2, 1, 2]))
    two = Workload("t", np.zeros(2), np.array([8, 8]), np.ones(2, np.int64), prefix=prefix)
    summary = prefix_summary(two)
    assert summary is not None
    assert (summary.token_share, summary.request_share) == (4 / 16, 0.5)
    assert summary.distinct_blocks == 2
