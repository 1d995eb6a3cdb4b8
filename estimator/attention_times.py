"""Attention times of whole batches, from cases measured at uniform lengths.

Decode is linear in batch and in context between measured points: in logarithms the same grid errs by
more than ten per cent. Prefill is measured without history; a chunk after history is composed from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servecast.compiler.kernels import KernelShape
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.physics import KernelKind, shortest_s
from servecast.estimator.predictor import Codes, Predicted, Predictor
from servecast.estimator.tables import SOURCE_CODE, Source

# Where the samples of a shape name no points of their own.
BATCH_POINTS = tuple(2**i for i in range(12))
CONTEXT_POINTS = (1, 3, 7, 15, *(2**i - 1 for i in range(5, 18)))
ANY_CONTEXT = np.array([0.0, 1e9])
PROMPT_POINTS = (
    1,
    16,
    *(2**i for i in range(5, 11)),
    *range(1536, 16385, 1024),
    *(2**i for i in (15, 16, 17)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Seconds and source codes on a lattice [rows, columns] with increasing axes; linear between points.

    Outside the lattice the last cell's slope goes on.
    """

    row_points: Floats
    column_points: Floats
    seconds: Floats
    source: Codes

    def at(self, rows: Floats, columns: Floats) -> tuple[Floats, Codes]:
        """Seconds and source codes at pairs of equal shape."""
        i, u = _bracket(self.row_points, rows)
        j, v = _bracket(self.column_points, columns)
        s, c = self.seconds, self.source
        low = (1 - v) * s[i, j] + v * s[i, j + 1]
        high = (1 - v) * s[i + 1, j] + v * s[i + 1, j + 1]
        between = ((u > 0) & (u < 1)) | ((v > 0) & (v < 1))
        outside = (u > 1) | (v > 1) | (u < 0) | (v < 0)
        i_first, i_last = i + (u >= 1), i + (u > 0)  # the corners that have a weight
        j_first, j_last = j + (v >= 1), j + (v > 0)
        corners = [c[a, b] for a in (i_first, i_last) for b in (j_first, j_last)]
        least = np.where(between, SOURCE_CODE[Source.INTERPOLATED], 0)
        least = np.where(outside, SOURCE_CODE[Source.EXTRAPOLATED], least)
        code = np.maximum.reduce([*corners, least])
        return (1 - u) * low + u * high, code.astype(np.int8)


def _bracket(points: Floats, x: Floats) -> tuple[Ints, Floats]:
    """Cell of each ``x`` and how far into it, beyond 0..1 outside the points."""
    i = np.clip(np.searchsorted(points, x, side="right") - 1, 0, len(points) - 2)
    return i.astype(np.int64), (x - points[i]) / (points[i + 1] - points[i])


def kind_of(shape: KernelShape) -> KernelKind:
    return KernelKind(shape.kernel, shape.dtype, shape.kv_dtype)


def columns_of(shape: KernelShape, count: int, **swept: Ints) -> dict[str, Ints]:
    """The shape's dimensions repeated for ``count`` cases, and the swept ones."""
    fixed = {name: np.full(count, value, dtype=np.int64) for name, value in shape.dims}
    return fixed | swept


def decode_surface(predictor: Predictor, shape: KernelShape) -> Surface:
    """Batch by context."""
    kind = kind_of(shape)
    batch = _points(predictor, shape, "batch", BATCH_POINTS)
    if shape.kernel == "delta_decode":
        return _alike_columns(
            batch, predictor.predict(kind, columns_of(shape, len(batch), batch=batch))
        )
    context = _points(predictor, shape, "context", CONTEXT_POINTS)
    grid = np.meshgrid(batch, context, indexing="ij")
    dims = columns_of(shape, grid[0].size, batch=grid[0].ravel(), context=grid[1].ravel())
    answer = predictor.predict(kind, dims)
    lattice = grid[0].shape
    seconds, source = answer.seconds.reshape(lattice), answer.source.reshape(lattice)
    _extend_rows(context, seconds, source)
    return Surface(batch.astype(np.float64), context.astype(np.float64), seconds, source)


def _alike_columns(points: Ints, answer: Predicted) -> Surface:
    """The same at every context."""
    seconds = np.stack([answer.seconds] * 2, axis=1)
    source = np.stack([answer.source] * 2, axis=1)
    return Surface(points.astype(np.float64), ANY_CONTEXT, seconds, source)


def _extend_rows(context: Ints, seconds: Floats, source: Codes) -> None:
    """Between a batch's measured contexts puts lines, beyond the longest the last slope.

    Measurements stop where the cache is full, and memory time is linear from there on; a forest is flat.
    """
    for row, codes in zip(seconds, source, strict=True):
        exact = np.flatnonzero(codes <= SOURCE_CODE[Source.IMPORTED])
        if len(exact) < 2:
            continue
        gaps = np.setdiff1d(np.arange(exact[0], exact[-1]), exact)
        row[gaps] = np.interp(context[gaps], context[exact], row[exact])
        codes[gaps] = SOURCE_CODE[Source.INTERPOLATED]
        a, b = exact[-2:]
        slope = (row[b] - row[a]) / (context[b] - context[a])
        row[b + 1 :] = row[b] + slope * (context[b + 1 :] - context[b])
        codes[b + 1 :] = SOURCE_CODE[Source.EXTRAPOLATED]


def _points(predictor: Predictor, shape: KernelShape, axis: str, default: tuple[int, ...]) -> Ints:
    """The axis values at which this very shape was measured, or the default ones where it was not."""
    samples = predictor.samples.get(kind_of(shape))
    measured = None if samples is None else samples.axis_of(dict(shape.dims), axis)
    if measured is None or len(measured) < 2:
        return np.array(default, dtype=np.int64)
    return measured


@dataclass(frozen=True, slots=True, eq=False)
class PrefillCurve:
    """``base_s`` once a launch, and what a prompt of S tokens adds, as time per token at ``points``."""

    shape: KernelShape
    base_s: float
    points: Floats
    per_token_s: Floats
    source: Codes

    def chunk_s(self, context: Floats, chunk: Floats) -> tuple[Floats, Codes]:
        """What ``chunk`` tokens after ``context`` cached ones add, and its source codes.

        Of a whole prompt's work a chunk does the share of its (query, key) pairs:
        ((c + m)^2 - c^2) / (c + m)^2 of the time of c + m tokens.
        """
        total = context + chunk
        whole = total * np.interp(total, self.points, self.per_token_s)
        beyond = np.maximum(total / self.points[-1], 1)  # time per token grows as the length
        share = (total**2 - context**2) / np.maximum(total, 1) ** 2
        at = np.clip(np.searchsorted(self.points, total), 0, len(self.points) - 1)
        composed = (context > 0) | (self.points[at] != total)
        least = np.where(
            beyond > 1, SOURCE_CODE[Source.EXTRAPOLATED], SOURCE_CODE[Source.INTERPOLATED]
        )
        code = np.where(composed, np.maximum(self.source[at], least), self.source[at])
        return share * whole * beyond, code.astype(np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class PrefillSurface:
    """Where chunks were measured after history too: seconds over context by chunk, ``base_s`` in each."""

    base_s: float
    surface: Surface

    def chunk_s(self, context: Floats, chunk: Floats) -> tuple[Floats, Codes]:
        """What ``chunk`` tokens after ``context`` cached ones add, and its source codes."""
        seconds, code = self.surface.at(context, chunk)
        return np.maximum(seconds - self.base_s, 0.0), code


def prefill_times(predictor: Predictor, shape: KernelShape) -> PrefillCurve | PrefillSurface:
    """A surface where history was measured, else the curve of whole prompts; linear attention, whose time
    does not know of history, is a surface, too.
    """
    if shape.kernel == "delta_prefill":
        return _stateful_prefill(predictor, shape)
    if len(_points(predictor, shape, "context", (0,))) > 1:
        return _prefill_surface(predictor, shape)
    return prefill_curve(predictor, shape)


def _prefill_surface(predictor: Predictor, shape: KernelShape) -> PrefillSurface:
    context = _points(predictor, shape, "context", ())
    chunk = _points(predictor, shape, "chunk", PROMPT_POINTS)
    grid = np.meshgrid(context, chunk, indexing="ij")
    swept = {"context": grid[0].ravel(), "chunk": grid[1].ravel()}
    ones = np.ones(grid[0].size, dtype=np.int64)
    answer = predictor.predict(kind_of(shape), columns_of(shape, len(ones), batch=ones, **swept))
    lattice = grid[0].shape
    seconds, source = answer.seconds.reshape(lattice), answer.source.reshape(lattice)
    points = context.astype(np.float64), chunk.astype(np.float64)
    return PrefillSurface(float(seconds.min()), Surface(*points, seconds, source))


def _stateful_prefill(predictor: Predictor, shape: KernelShape) -> PrefillSurface:
    chunk = _points(predictor, shape, "chunk", PROMPT_POINTS)
    dims = columns_of(shape, len(chunk), batch=np.ones_like(chunk), chunk=chunk)
    alike = _alike_columns(chunk, predictor.predict(kind_of(shape), dims))
    surface = Surface(ANY_CONTEXT, alike.row_points, alike.seconds.T, alike.source.T)
    return PrefillSurface(float(alike.seconds.min()), surface)


def prefill_curve(predictor: Predictor, shape: KernelShape) -> PrefillCurve:
    kind = kind_of(shape)
    points = _points(predictor, shape, "chunk", PROMPT_POINTS)
    ones = np.ones_like(points)
    dims = columns_of(shape, len(points), batch=ones, context=0 * points, chunk=points)
    answer = predictor.predict(kind, dims)
    base = float(answer.seconds[0])
    per_token = np.maximum(answer.seconds - base, 0) / points
    return PrefillCurve(shape, base, points.astype(np.float64), per_token, answer.source)


def floor_s(predictor: Predictor, shape: KernelShape, **swept: Floats) -> Floats:
    """What physics asks of the shape at points of its swept axes, all of one shape."""
    first = next(iter(swept.values()))
    fixed = {name: np.full(first.size, value) for name, value in shape.dims}
    flat = {name: values.ravel() for name, values in swept.items()}
    floor = shortest_s(predictor.sku, kind_of(shape), {**fixed, **flat})
    return floor.reshape(first.shape)
