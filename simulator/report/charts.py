"""Scatter plots laid out for SVG: numbers in, coordinates and tick labels out. Draws nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 12, 44
"""Margins of the plot's frame, in units of the drawing, which scales to its column."""

LOG_FROM_RATIO = 15.0
"""Values that span more than this share no linear axis: most would lie on one line."""

NUM_SHAPES = 8
"""Marker shapes (and colours) that the style sheet knows; further series start over."""


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration: ``row`` is its place in the ranking, from 0; ``series`` its GPU.

    ``x_interval`` bounds x at 90 % confidence, where that is known.
    """

    x: float
    y: float
    row: int
    series: str
    label: str
    x_interval: tuple[float, float] | None = None


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


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """A cloud laid out: everything that a template needs to draw it with its Pareto frontier."""

    cloud: Cloud
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_limit: float | None
    y_limit: float | None
    marks: tuple[Mark, ...]
    frontier: tuple[tuple[float, float], ...]
    log_axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
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
    x_scale = _scale(cloud.x_values, cloud.x.limit, LEFT, WIDTH - RIGHT)
    y_scale = _scale([p.y for p in cloud.points], cloud.y.limit, HEIGHT - BOTTOM, TOP)
    series = {name: i % NUM_SHAPES for i, name in enumerate(cloud.series)}
    marks = (
        Mark(x_scale(p.x), y_scale(p.y), series[p.series], p.row, p.label, _bar(p, x_scale))
        for p in cloud.points
    )
    return Scatter(
        cloud=cloud,
        x_ticks=_ticks(x_scale, cloud.x.write),
        y_ticks=_ticks(y_scale, cloud.y.write),
        x_limit=None if cloud.x.limit is None else x_scale(cloud.x.limit),
        y_limit=None if cloud.y.limit is None else y_scale(cloud.y.limit),
        # The best is drawn last, on top of its neighbours.
        marks=tuple(sorted(marks, key=lambda mark: -mark.row)),
        frontier=tuple((x_scale(x), y_scale(y)) for x, y in cloud.frontier()),
        log_axes=tuple(a.title for a, s in ((cloud.x, x_scale), (cloud.y, y_scale)) if s.log),
    )


def _bar(point: Point, scale: _Scale) -> tuple[float, float] | None:
    if point.x_interval is None:
        return None
    low, high = (round(scale(end) - scale(point.x), 1) for end in point.x_interval)
    return low, high


def wants_log(low: float, high: float) -> bool:
    """Whether values of such a range belong on a logarithmic axis."""
    return high > LOG_FROM_RATIO * low


def _scale(values: Sequence[float], limit: float | None, start: float, end: float) -> _Scale:
    inside = [*values, limit] if limit is not None else list(values)
    low, high = min(inside), max(inside)
    if wants_log(low, high):
        return _Scale(low / 1.3, high * 1.3, True, start, end)
    return _Scale(0.0, high * 1.08, False, start, end)


def _ticks(scale: _Scale, write: Callable[[float], str]) -> tuple[Tick, ...]:
    values = _log_ticks(scale) if scale.log else _linear_ticks(scale)
    return tuple(Tick(scale(value), write(value)) for value in values)


def _linear_ticks(scale: _Scale) -> list[float]:
    rough = scale.high / 5
    magnitude = 10.0 ** floor(log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
    return [i * step for i in range(floor(scale.high / step) + 1)]


def _log_ticks(scale: _Scale) -> list[float]:
    decades = range(floor(log10(scale.low)), ceil(log10(scale.high)) + 1)
    per_decade = (1, 3) if len(decades) > 3 else (1, 2, 5)
    values = (m * 10.0**decade for decade in decades for m in per_decade)
    return [value for value in values if scale.low <= value <= scale.high]
