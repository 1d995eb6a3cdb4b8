"""Small drawings laid out for SVG: bars by row, histograms, curves; each with its numbers. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from servecast.simulator.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Scale,
    Tick,
    scale_for,
    ticks_of,
)

Cell = str | float | None

ROW_HEIGHT = 26
LABEL_WIDTH = 158
"""Left of the frame of a drawing whose y axis is names."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The data behind a figure, as a spreadsheet takes it. Values that do not exist are None."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def as_json(self) -> dict[str, object]:
        rows = [[_finite(cell) for cell in row] for row in self.rows]
        return {"name": self.name, "columns": self.columns, "rows": rows}


def _finite(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not isfinite(cell) else cell


@dataclass(frozen=True, slots=True)
class Frame:
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A path, its class in the style sheet, and what a reader is told who points at it."""

    d: str
    style: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    frame: Frame
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    numbers: Numbers

    @property
    def has_bands(self) -> bool:
        return any(shape.style == "band" for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Bar:
    """One horizontal bar: thin from ``start`` to ``end``, thick up to ``thick``, marked at ``mark``.

    ``bounds`` are intervals at 90 % confidence of single values on it.
    """

    start: float
    end: float
    thick: float
    mark: float
    series: int
    title: str
    bounds: tuple[tuple[float, float], ...] = ()


PLOT = Frame(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM)


def bars(
    title: str, axis: Axis, rows: Sequence[tuple[str, Sequence[Bar]]], numbers: Numbers
) -> Panel:
    """Named rows of one or more bars each, over one axis that suits all."""
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM
    frame = Frame(WIDTH, height, LABEL_WIDTH, WIDTH - RIGHT, TOP, height - BOTTOM)
    every = [bar for _, own in rows for bar in own]
    values = [v for b in every for v in (b.start, b.end, *(e for pair in b.bounds for e in pair))]
    scale = scale_for([v for v in values if v > 0], axis.limit, frame.left, frame.right)
    shapes: list[Shape] = []
    if axis.limit is not None:
        shapes.append(Shape(f"M{scale(axis.limit)} {frame.top}V{frame.bottom}", "limit"))
    for index, (_, own) in enumerate(rows):
        middle = frame.top + ROW_HEIGHT * (index + 0.5)
        for place, bar in enumerate(own):
            shapes += _bar_shapes(bar, middle + 9 * (place - (len(own) - 1) / 2), scale)
    names = (Tick(frame.top + ROW_HEIGHT * (i + 0.5), name) for i, (name, _) in enumerate(rows))
    x_ticks = ticks_of(scale, axis.write)
    return Panel(title, frame, axis.title, "", x_ticks, tuple(names), tuple(shapes), numbers)


def _bar_shapes(bar: Bar, y: float, scale: Scale) -> list[Shape]:
    start, end, thick, mark = (scale(v) for v in (bar.start, bar.end, bar.thick, bar.mark))
    series = f"s{bar.series}"
    bands = [Shape(_box(scale(a), scale(b), y - 5, y + 5), "band") for a, b in bar.bounds]
    return [
        *bands,
        Shape(_box(start, end, y - 1, y + 1), series, bar.title),
        Shape(_box(start, thick, y - 3, y + 3), series, bar.title),
        Shape(f"M{mark} {y - 5}V{y + 5}", "median", bar.title),
    ]


def histogram(title: str, axes: tuple[Axis, Axis], numbers: Numbers) -> Panel:
    """Columns from 0; the rows of ``numbers`` are (from, to, count)."""
    across, up = axes
    columns = [(float(low), float(high), float(count)) for low, high, count in numbers.rows]  # type: ignore[arg-type]  # no cell is absent
    edges = [columns[0][0], *(high for _, high, _ in columns)]
    inner = [edge for edge in edges if edge > 0] or [1.0]
    x = scale_for(inner, None, PLOT.left, PLOT.right)
    if not x.log or edges[0] <= 0:
        x = Scale(edges[0], edges[-1], False, PLOT.left, PLOT.right)
    y = Scale(0.0, 1.08 * max(count for *_, count in columns), False, PLOT.bottom, PLOT.top)
    shapes = [
        Shape(
            _box(x(low), x(high), y(count), PLOT.bottom),
            "s0 column",
            f"{across.write(low)} to {across.write(high)}: {up.write(count)}",
        )
        for low, high, count in columns
        if count
    ]
    ticks = ticks_of(x, across.write), ticks_of(y, up.write)
    return Panel(title, PLOT, across.title, up.title, *ticks, tuple(shapes), numbers)


@dataclass(frozen=True, slots=True)
class Reading:
    """A point of a curve with the interval around it, None where it has none."""

    x: float
    y: float
    bounds: tuple[float, float] | None
    title: str


def curve(
    title: str, axes: tuple[Axis, Axis], readings: Sequence[Reading], numbers: Numbers
) -> Panel:
    """Readings by ascending x; y holds until the next one, as a cost does between two limits."""
    across, up = axes
    ends = [value for r in readings for value in (r.y, *(r.bounds or ()))]
    x = scale_for([r.x for r in readings], across.limit, PLOT.left, PLOT.right)
    y = scale_for(ends, None, PLOT.bottom, PLOT.top)
    line = f"M{x(readings[0].x)} {y(readings[0].y)}"
    line += "".join(f"H{x(r.x)}V{y(r.y)}" for r in readings[1:])
    shapes = [Shape(line, "frontier")]
    if across.limit is not None:
        shapes.insert(0, Shape(f"M{x(across.limit)} {PLOT.top}V{PLOT.bottom}", "limit"))
    for r in readings:
        if r.bounds is not None:
            low, high = (y(end) for end in r.bounds)
            shapes.append(Shape(f"M{x(r.x) - 3} {low}h6m-3 0V{high}m-3 0h6", "whisker", r.title))
        cx, cy = x(r.x), y(r.y)
        shapes.append(Shape(_box(cx - 4, cx + 4, cy - 4, cy + 4), "s0 spot", r.title))
    ticks = ticks_of(x, across.write), ticks_of(y, up.write)
    return Panel(title, PLOT, across.title, up.title, *ticks, tuple(shapes), numbers)


def _box(left: float, right: float, top: float, bottom: float) -> str:
    return f"M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}z"
