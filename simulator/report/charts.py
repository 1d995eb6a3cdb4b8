"""Axes and scatter plots laid out for SVG: numbers in, coordinates and tick labels out. Draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from servecast.simulator.report.text import tick_seconds

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 12, 44
"""Margins of the plot's frame, in units of the drawing, which scales to its column."""

LOG_FROM_RATIO = 15.0
"""Values that span more than this share no linear axis: most would lie on one line."""

ACROSS_APART, UP_APART = 46, 28
"""The least distance between the labels of two ticks."""

NUM_SHAPES = 8
"""Marker shapes (and colours) that the style sheet knows; further series start over."""


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration: ``row`` is its place in the ranking, from 0; ``series`` its GPU.

    ``x_interval`` bounds x at 90 % confidence, where that is known. ``size`` is that of its mark,
    beside the usual one.
    """

    x: float
    y: float
    row: int
    series: str
    label: str
    x_interval: tuple[float, float] | None = None
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, how its ticks are written, and a limit to draw across it."""

    title: str
    write: Callable[[float], str]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Cloud:
    """Configurations by two of their figures. Less y is always better; more x is, or less."""

    key: str
    title: str
    x: Axis
    y: Axis
    more_x_is_better: bool
    points: tuple[Point, ...]

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(sorted({point.series for point in self.points}))

    @property
    def x_values(self) -> list[float]:
        """All that the x axis must span."""
        ends = (p.x_interval or (p.x, p.x) for p in self.points)
        return [*(p.x for p in self.points), *(end for pair in ends for end in pair)]

    def frontier(self) -> list[tuple[float, float]]:
        """The points that no other beats in both coordinates, by x from the best end."""
        sign = -1 if self.more_x_is_better else 1
        kept: list[tuple[float, float]] = []
        for point in sorted(self.points, key=lambda p: (sign * p.x, p.y)):
            if not kept or point.y < kept[-1][1]:
                kept.append((point.x, point.y))
        return kept


@dataclass(frozen=True, slots=True)
class Mark:
    """A point placed in the drawing, with the number of its series. ``bar`` ends relative to x."""

    x: float
    y: float
    series: int
    row: int
    label: str
    bar: tuple[float, float] | None = None
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """A cloud laid out: everything that a template needs to draw it with its Pareto frontier."""

    cloud: Cloud
    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_limit: float | None
    y_limit: float | None
    marks: tuple[Mark, ...]
    frontier: tuple[tuple[float, float], ...]
    log_axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values ``low`` to ``high`` onto the drawing."""

    low: float
    high: float
    log: bool
    pixel_low: float
    pixel_high: float

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = log10(value), log10(low), log10(high)
        share = (value - low) / (high - low)
        return round(self.pixel_low + share * (self.pixel_high - self.pixel_low), 1)


def scatter(cloud: Cloud) -> Scatter:
    """The layout of a cloud that has at least one point, all coordinates above 0."""
    x_scale = scale_for(cloud.x_values, cloud.x.limit, LEFT, WIDTH - RIGHT)
    y_scale = scale_for([p.y for p in cloud.points], cloud.y.limit, HEIGHT - BOTTOM, TOP)
    series = {name: i % NUM_SHAPES for i, name in enumerate(cloud.series)}
    marks = (
        Mark(
            x_scale(p.x),
            y_scale(p.y),
            series[p.series],
            p.row,
            p.label,
            _bar(p, x_scale),
            p.size,
        )
        for p in cloud.points
    )
    return Scatter(
        cloud=cloud,
        x=x_scale,
        y=y_scale,
        x_ticks=ticks_of(x_scale, cloud.x.write),
        y_ticks=ticks_of(y_scale, cloud.y.write),
        x_limit=None if cloud.x.limit is None else x_scale(cloud.x.limit),
        y_limit=None if cloud.y.limit is None else y_scale(cloud.y.limit),
        # The best is drawn last, on top of its neighbours.
        marks=tuple(sorted(marks, key=lambda mark: -mark.row)),
        frontier=tuple((x_scale(x), y_scale(y)) for x, y in cloud.frontier()),
        log_axes=tuple(a.title for a, s in ((cloud.x, x_scale), (cloud.y, y_scale)) if s.log),
    )


def _bar(point: Point, scale: Scale) -> tuple[float, float] | None:
    if point.x_interval is None:
        return None
    low, high = (round(scale(end) - scale(point.x), 1) for end in point.x_interval)
    return low, high


def scale_json(scale: Scale, axis: Axis) -> dict[str, object]:
    """What the page's script needs to draw the axis again, over another range."""
    limits = {"low": scale.low, "high": scale.high, "limit": axis.limit}
    return {**limits, "log": scale.log, "time": axis.write is tick_seconds}


def wants_log(low: float, high: float) -> bool:
    """Whether values of such a range belong on a logarithmic axis."""
    return high > LOG_FROM_RATIO * low


def scale_for(values: Sequence[float], limit: float | None, start: float, end: float) -> Scale:
    """An axis from 0, or a logarithmic one where the values are of many sizes."""
    inside = [*values, limit] if limit is not None else list(values)
    low, high = min(inside), max(inside)
    if wants_log(low, high):
        return Scale(low / 1.3, high * 1.3, True, start, end)
    return Scale(0.0, high * 1.08, False, start, end)


def ticks_of(scale: Scale, write: Callable[[float], str]) -> tuple[Tick, ...]:
    """Round values within the scale, as they are written."""
    values = _log_ticks(scale) if scale.log else _linear_ticks(scale)
    return tuple(Tick(scale(value), write(value)) for value in values)


def _linear_ticks(scale: Scale) -> list[float]:
    rough = scale.high / 5
    magnitude = 10.0 ** floor(log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
    return [i * step for i in range(floor(scale.high / step) + 1)]


def _log_ticks(scale: Scale) -> list[float]:
    """As many as there is room for, and at least the powers of ten."""
    decades = range(floor(log10(scale.low)), ceil(log10(scale.high)) + 1)
    apart = ACROSS_APART if scale.pixel_low < scale.pixel_high else UP_APART
    values: list[float] = []
    for per_decade in ((1, 2, 5), (1, 3), (1,)):
        every = (m * 10.0**decade for decade in decades for m in per_decade)
        values = [value for value in every if scale.low <= value <= scale.high]
        if len(values) * apart <= abs(scale.pixel_high - scale.pixel_low):
            break
    return values
