"""A workload is valid by construction, and every way to change it keeps each request whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.workload import PrefixBlocks, RejectedRow, TraceOrigin, Workload


def workload(
    arrival_s: list[float], prompt: list[int] | None = None, output: list[int] | None = None
) -> Workload:
    n = len(arrival_s)
    return Workload(
        "test",
        np.array(arrival_s, dtype=np.float64),
        np.array(prompt or [10] * n, dtype=np.int64),
        np.array(output or [5] * n, dtype=np.int64),
    )


def from_file(*lines: int, rejected: tuple[RejectedRow, ...] = ()) -> Workload:
    """Requests of 100, 200, 300 ... prompt tokens, read from the given lines."""
    read = workload(
        [float(i) for i in range(len(lines))], [100 * (i + 1) for i in range(len(lines))]
    )
    origin = TraceOrigin("t.csv", "servecast", np.array(lines), rejected)
    return dataclasses.replace(read, origin=origin)


def test_the_rate_counts_gaps_not_requests() -> None:
    assert workload([0.0, 1.0, 2.0, 4.0]).rate_per_s == 3 / 4


@given(
    gaps=st.lists(st.floats(0.01, 3), min_size=1, max_size=8),
    rate_per_s=st.floats(0.1, 10),
)
def test_rescaling_hits_the_rate_and_keeps_the_pattern(
    gaps: list[float], rate_per_s: float
) -> None:
    original = workload([0.0, *np.cumsum(gaps).tolist()])
    scaled = original.at_rate(rate_per_s)
    assert scaled.rate_per_s == pytest.approx(rate_per_s)
    assert scaled.arrival_s / scaled.span_s == pytest.approx(original.arrival_s / original.span_s)


@pytest.mark.parametrize("rate_per_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_is_not_above_zero_is_refused(rate_per_s: float) -> None:
    with pytest.raises(UserError, match=r"test: rate \S+ must be above 0 requests per second"):
        workload([0.0, 1.0]).at_rate(rate_per_s)


@pytest.mark.parametrize("arrival_s", [[0.0], [0.0, 0.0]])
def test_requests_at_one_instant_have_no_rate(arrival_s: list[float]) -> None:
    with pytest.raises(UserError, match="at one instant have no rate"):
        _ = workload(arrival_s).rate_per_s


def test_an_empty_workload_is_refused() -> None:
    with pytest.raises(UserError, match="no requests; a workload needs at least one"):
        workload([])


@pytest.mark.parametrize(
    ("arrival_s", "prompt", "output", "message"),
    [
        ([0.0, 2.0, 1.0], [1, 1, 1], [1, 1, 1], "request 2: arrives before the request above it"),
        ([0.0, float("nan")], [1, 1], [1, 1], "request 1: arrives at nan; arrival_s must be 0 or"),
        ([-1.0, 0.0], [1, 1], [1, 1], "request 0: arrives at -1.0; arrival_s must be 0 or more"),
        ([0.0, 1.0], [1, 0], [1, 1], "request 1: has a prompt of 0; prompt_tokens must be 1 token"),
        ([0.0, 1.0], [1, 1], [-3, 1], "request 0: has an output of -3; output_tokens must be 1"),
    ],
)
def test_no_workload_holds_an_impossible_request(
    arrival_s: list[float], prompt: list[int], output: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        workload(arrival_s, prompt, output)


def test_a_request_longer_than_the_context_is_named_by_file_and_line() -> None:
    read = from_file(2, 3, 5)
    read.check_context(305)
    message = (
        r"^t.csv:3: 200 prompt and 5 output tokens exceed the model's context of 200 "
        r"\(2 of 3 requests do\)$"
    )
    with pytest.raises(UserError, match=message):
        read.check_context(200)


def test_dropped_requests_join_the_rejected_rows_in_file_order() -> None:
    kept = from_file(2, 3, 5, rejected=(RejectedRow(4, "empty"),)).drop_longer_than(204)
    assert kept.prompt_tokens.tolist() == [100]
    assert kept.origin is not None
    assert [row.line for row in kept.origin.rejected] == [3, 4, 5]
    assert kept.origin.rejected[0].reason == "longer than the context of 204 tokens"


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(UserError, match=r"exceed the model's context of 10 \(3 of 3 requests do\)"):
        from_file(2, 3, 5).drop_longer_than(10)


def test_the_first_requests_account_for_the_rows_above_the_last_of_them() -> None:
    read = from_file(2, 4, 6, rejected=(RejectedRow(3, "empty"), RejectedRow(5, "empty")))
    first = read.first(2)
    assert first.origin is not None
    assert (first.prompt_tokens.tolist(), first.origin.line.tolist()) == ([100, 200], [2, 4])
    assert first.origin.rejected == (RejectedRow(3, "empty"),)


@pytest.mark.parametrize("num_requests", [0, 3])
def test_taking_more_requests_than_there_are_is_refused(num_requests: int) -> None:
    with pytest.raises(UserError, match=f"cannot take the first {num_requests} of 2 requests"):
        workload([0.0, 1.0]).first(num_requests)


def test_prefix_blocks_follow_their_request() -> None:
    blocks = PrefixBlocks(16, np.array([0, 2, 2, 5]), np.array([7, 8, 7, 8, 9]))
    taken = blocks.take(np.array([2, 1, 0, 2]))
    assert taken.offsets.tolist() == [0, 3, 3, 5, 8]
    assert taken.ids.tolist() == [7, 8, 9, 7, 8, 7, 8, 9]


def test_a_summary_worked_by_hand() -> None:
    summary = describe(workload([0.0, 1.0, 2.0, 5.0], [10, 20, 30, 40], [5, 5, 5, 5]))
    assert summary.gap_cv == pytest.approx(np.sqrt(8 / 9) / (5 / 3))
    assert (summary.span_s, summary.rate_per_s) == (5.0, 0.6)
    assert (summary.prompt_tokens.mean, summary.prompt_tokens.total) == (25.0, 100)
    assert (summary.prompt_per_output, summary.prompt_per_output_p50) == (5.0, 5.0)
    assert summary.dispersion is None


def test_regular_arrivals_have_no_burstiness_and_bursts_have() -> None:
    regular = describe(workload([0.1 * i for i in range(401)]))
    assert regular.gap_cv == pytest.approx(0, abs=1e-9)
    assert regular.dispersion == pytest.approx(0, abs=0.02)
    bursts = describe(workload([5.0 * (i // 50) for i in range(401)]))
    assert bursts.dispersion is not None
    assert bursts.dispersion > 10


def test_a_single_request_has_no_rate_and_no_burstiness_to_report() -> None:
    summary = describe(workload([0.0]))
    assert (summary.rate_per_s, summary.gap_cv, summary.dispersion) == (None, None, None)


def test_a_summary_is_json_and_counts_the_rejected_rows_by_reason() -> None:
    rows = (RejectedRow(3, "empty"), RejectedRow(5, "empty"), RejectedRow(6, "images"))
    summary = dataclasses.asdict(describe(from_file(2, 4, rejected=rows)))
    assert json.loads(json.dumps(summary, allow_nan=False))["format"] == "servecast"
    assert (summary["num_rejected"], summary["rejected"]) == (3, {"empty": 2, "images": 1})


def test_taken_requests_keep_their_client_session_and_priority() -> None:
    columns = {"client": np.array([3, 1, 2]), "session": np.array([0, 0, 1])}
    whole = Workload("w", np.arange(3.0), np.ones(3, int), np.ones(3, int), **columns)
    some = whole.take(np.array([2, 0]), np.array([0.0, 1.0]))
    assert some.client is not None
    assert some.client.tolist() == [2, 3]
    assert some.session is not None
    assert some.session.tolist() == [1, 0]
    assert some.priority is None
