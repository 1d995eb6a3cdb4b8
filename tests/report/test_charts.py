"""Scatter layout: coordinates, ticks and the Pareto frontier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.simulator.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Cloud,
    Point,
    Scatter,
    scatter,
)
from servecast.simulator.report.text import number, percent, seconds, size, tick_number, usd


def cloud(
    *pairs: tuple[float, float], more_x_is_better: bool = True, limit: float | None = None
) -> Cloud:
    points = (Point(x, y, i, "gpu", "") for i, (x, y) in enumerate(pairs))
    y_axis = Axis("y", tick_number, limit)
    return Cloud("k", "t", Axis("x", tick_number), y_axis, more_x_is_better, tuple(points))


def drawn(*pairs: tuple[float, float], limit: float | None = None) -> Scatter:
    return scatter(cloud(*pairs, limit=limit))


def test_a_frontier_worked_by_hand() -> None:
    rising = cloud((1, 1), (2, 2), (3, 3), (3, 4), (2, 5))
    assert rising.frontier() == [(3, 3), (2, 2), (1, 1)]
    falling = cloud((1, 3), (2, 2), (3, 2), (4, 1), more_x_is_better=False)
    assert falling.frontier() == [(1, 3), (2, 2), (4, 1)]


coordinates = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8)


@given(pairs=coordinates, more_x_is_better=st.booleans())
def test_no_point_beats_the_frontier_and_it_beats_every_other(
    pairs: list[tuple[int, int]], more_x_is_better: bool
) -> None:
    sign = -1 if more_x_is_better else 1
    kept = cloud(*pairs, more_x_is_better=more_x_is_better).frontier()
    for x, y in pairs:
        assert any(sign * a <= sign * x and b <= y for a, b in kept)
    for point in kept:
        better = [
            pair for pair in pairs if sign * pair[0] <= sign * point[0] and pair[1] <= point[1]
        ]
        assert set(better) == {point}


@given(pairs=coordinates, limit=st.none() | st.floats(0.1, 1000))
def test_marks_ticks_and_limits_lie_in_the_frame(
    pairs: list[tuple[int, int]], limit: float | None
) -> None:
    chart = drawn(*pairs, limit=limit)
    across = [mark.x for mark in chart.marks] + [tick.at for tick in chart.x_ticks]
    up = [mark.y for mark in chart.marks] + [tick.at for tick in chart.y_ticks]
    up += [] if chart.y_limit is None else [chart.y_limit]
    assert all(LEFT <= x <= WIDTH - RIGHT for x in across)
    assert all(TOP <= y <= HEIGHT - BOTTOM for y in up)
    assert len(chart.x_ticks) >= 2


def test_linear_ticks_are_round_and_start_at_zero() -> None:
    assert [tick.text for tick in drawn((3.3, 1)).x_ticks] == ["0", "1", "2", "3"]


def test_values_of_many_sizes_get_a_logarithmic_axis() -> None:
    chart = drawn((1, 1), (2, 1000))
    assert chart.log_axes == ("y",)
    assert [tick.text for tick in chart.y_ticks] == ["1", "3", "10", "30", "100", "300", "1,000"]


def test_the_best_is_drawn_last_on_top_of_the_others() -> None:
    assert [mark.row for mark in drawn((1, 1), (2, 2), (3, 3)).marks] == [2, 1, 0]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (seconds(0.0123), "12.3 ms"),
        (seconds(0.99999), "1,000 ms"),
        (seconds(1.5), "1.50 s"),
        (seconds(600), "10.0 min"),
        (seconds(0), "0 s"),
        (seconds(None), "–"),
        (number(0.00123), "0.00123"),
        (number(123456), "123,000"),
        (usd(0.4321), "$0.432"),
        (usd(1234.5), "$1,234.50"),
        (usd(0), "$0.00"),
        (percent(0.001), "<1%"),
        (percent(0), "0%"),
        (percent(0.666), "67%"),
        (size(16_060_522_496), "15.0 GiB"),
        (size(12), "12.0 B"),
    ],
)
def test_numbers_are_written_as_a_person_says_them(written: str, text: str) -> None:
    assert written == text
