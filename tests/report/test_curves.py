"""The drawings beside the Pareto charts: what is drawn where, and what their tables hold."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from servecast.simulator.report.charts import Axis
from servecast.simulator.report.curves import (
    latency_numbers,
    latency_panel,
    slo_cost_panels,
    tornado_panel,
    workload_panels,
)
from servecast.simulator.report.panels import PLOT, Bar, Numbers, bars, histogram
from servecast.simulator.report.text import tick_number

Result = dict[str, Any]
AXES = Axis("x", tick_number), Axis("y", tick_number)


def ends(d: str) -> list[float]:
    """Left, right, top and bottom of a box's path."""
    found = re.fullmatch(r"M(\S+) (\S+)H(\S+)V(\S+)H\1z", d)
    assert found is not None, d
    left, top, right, bottom = map(float, found.groups())
    return [left, right, top, bottom]


counts = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@given(counts=counts)
def test_columns_stand_side_by_side_in_proportion_to_their_counts(counts: list[int]) -> None:
    rows = tuple((float(i), i + 1.0, float(count)) for i, count in enumerate(counts))
    panel = histogram("t", AXES, Numbers("n", ("from", "to", "count"), rows))
    drawn = [ends(shape.d) for shape in panel.shapes]
    heights = [bottom - top for _, _, top, bottom in drawn]
    shown = [count for count in counts if count]
    for height, count in zip(heights, shown, strict=True):
        assert abs(height / count - heights[0] / shown[0]) < 0.5
    assert all(PLOT.left <= left < right <= PLOT.right for left, right, _, _ in drawn)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(drawn))


spans = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)


@given(spans=spans)
def test_bars_lie_in_the_frame_and_one_below_the_other(spans: list[tuple[int, int]]) -> None:
    rows = [
        ("r", [Bar(min(pair), max(pair), max(pair), pair[0], 0, "", ((min(pair), max(pair)),))])
        for pair in spans
    ]
    panel = bars("t", AXES[0], rows, Numbers("n", (), ()))
    boxes = [ends(shape.d) for shape in panel.shapes if shape.style == "s0"]
    assert all(panel.frame.left <= left <= right <= panel.frame.right for left, right, *_ in boxes)
    assert all(panel.frame.top <= top < bottom <= panel.frame.bottom for *_, top, bottom in boxes)
    assert [tick.at for tick in panel.y_ticks] == sorted({tick.at for tick in panel.y_ticks})


def test_a_latency_of_zero_starts_at_its_p90_and_one_that_is_absent_is_not_drawn(
    result: Result,
) -> None:
    best = result["best"]
    best["metrics"]["tbt_s"] = dict.fromkeys(best["metrics"]["tbt_s"])
    best["at_trace_rate"]["metrics"]["tbt_s"] = {}
    panel = latency_panel(best)
    assert panel is not None
    assert [tick.text for tick in panel.y_ticks] == ["TTFT", "TPOT", "E2E", "queue delay"]
    queue = [s.title for s in panel.shapes if s.title.startswith("queue delay at capacity")]
    assert queue[0] == "queue delay at capacity: median 0 s, p90 185 ms, p99 1.02 s"


def test_the_latency_table_holds_intervals_where_there_are_any(full: Result) -> None:
    numbers = latency_numbers(full["best"])
    rows = {row[:3]: row[3:] for row in numbers.rows}
    assert rows["ttft", "capacity", "p90"][1:] == (1.4, 1.7)
    assert rows["ttft", "trace’s rate", "p90"][1:] == (None, None)
    assert len(rows) == 2 * 5 * 6


def test_a_limit_that_nothing_meets_is_in_the_table_and_not_in_the_curve(full: Result) -> None:
    (panel,) = slo_cost_panels(full)
    spots = [shape.title for shape in panel.shapes if "spot" in shape.style]
    assert [spot.split(":")[0] for spot in spots] == ["1.00 s", "2.00 s", "4.00 s"]
    assert ["at most" in spot for spot in spots] == [False, False, True]
    assert panel.numbers.rows[0][:2] == (0.5, None)
    assert next(shape.style for shape in panel.shapes) == "limit"


def test_the_widest_input_comes_first_in_the_tornado(full: Result) -> None:
    panel = tornado_panel(full)
    assert panel is not None
    assert [tick.text for tick in panel.y_ticks] == ["prompt length", "operator times"]


def test_nothing_is_drawn_of_what_the_result_does_not_hold(result: Result) -> None:
    assert slo_cost_panels(result) == workload_panels(result["workload"]) == []
    assert tornado_panel(result) is None


def test_numbers_that_json_does_not_know_become_absent() -> None:
    numbers = Numbers("n", ("a",), ((float("nan"),), (1.0,), ("x",)))
    assert json.loads(json.dumps(numbers.as_json()))["rows"] == [[None], [1.0], ["x"]]
