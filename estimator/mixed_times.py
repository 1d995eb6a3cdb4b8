"""What prefill and decodes in one attention launch take beyond one launch each.

FlashAttention's launch over both lengths runs the decodes in the prefill's tiles: on consumer Blackwell and
Ada 20 to 100 % slower than alone. Measured as whole launches at prompts without history.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from servecast.compiler.kernels import KernelShape
from servecast.estimator.attention_times import Surface, decode_surface, kind_of, prefill_times
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples
from servecast.estimator.skewed_times import longer_beside_prefill
from servecast.estimator.tables import SOURCE_CODE, Source, TableBounds
from servecast.estimator.token_times import Launch

MIXED = "attention_mixed"
"""Its cases: ``batch`` decodes at ``context`` beside one prompt of ``chunk`` tokens."""


def mixed_kind(decode: KernelKind) -> KernelKind:
    return replace(decode, kernel=MIXED)


def chunk_points(launches: Counter[Launch], predictor: Predictor) -> Floats:
    """Prefill tokens at which any launch was measured beside decodes, each at least twice the one before."""
    points: list[int] = []
    for shape in _shapes(launches):
        samples = _samples(predictor, shape)
        if samples is not None:
            for chunk in np.unique(samples.dims["chunk"]).tolist():
                if not points or chunk >= 2 * points[-1]:
                    points.append(chunk)
    return np.array(sorted(set(points)), dtype=np.float64)


def mixed_times(
    launches: Counter[Launch], predictor: Predictor, bounds: TableBounds, points: Floats
) -> Floats:
    """[chunk points, decodes, cache points]: seconds to add where a step has both; may be negative."""
    caches = max(2, -(-bounds.kv_capacity_tokens // bounds.kv_step) + 1)
    batch, cached = np.meshgrid(
        np.arange(bounds.max_num_seqs + 1.0),
        np.arange(caches) * float(bounds.kv_step),
        indexing="ij",
    )
    context = np.minimum(cached / np.maximum(batch, 1), bounds.max_context_tokens)
    total = np.zeros((len(points), *batch.shape))
    lengths = np.maximum(batch, 1), context
    for shape in _shapes(launches):
        samples = _samples(predictor, shape)
        if samples is None:
            continue
        count = sum(n for launch, n in launches.items() if launch.shape == shape)
        longer_s = longer_beside_prefill(predictor, shape, lengths, bounds.drawn)
        for i, chunk in enumerate(points):
            extra_s = _extra(predictor, shape, samples, chunk).at(batch, context)[0]
            total[i] += count * np.where(batch > 0, extra_s + longer_s, 0.0)
    return total


def _shapes(launches: Counter[Launch]) -> list[KernelShape]:
    shapes = {launch.shape for launch in launches if launch.shape.kernel == "attention_decode"}
    return sorted(shapes)


def _samples(predictor: Predictor, shape: KernelShape) -> Samples | None:
    samples = predictor.samples.get(mixed_kind(kind_of(shape)))
    if samples is None:
        return None
    same = np.logical_and.reduce([samples.dims[name] == size for name, size in shape.dims])
    return samples.rows(same) if same.any() else None


def _extra(predictor: Predictor, shape: KernelShape, samples: Samples, chunk: float) -> Surface:
    """Decodes by context, at one number of prefill tokens."""
    rows = samples.rows(samples.dims["chunk"] == chunk)
    batch, context = rows.dims["batch"].astype(np.float64), rows.dims["context"].astype(np.float64)
    prefill = prefill_times(predictor, replace(shape, kernel="attention_prefill"))
    prefill_s = prefill.base_s + prefill.chunk_s(np.zeros(1), np.array([chunk]))[0]
    decode_s = decode_surface(predictor, shape).at(batch, context)[0]
    extra_s = rows.seconds - prefill_s - decode_s
    row_points, column_points = np.unique(batch), np.unique(context)
    share = np.full((len(row_points), len(column_points)), np.nan)
    share[np.searchsorted(row_points, batch), np.searchsorted(column_points, context)] = (
        extra_s / decode_s
    )
    lattice = np.meshgrid(row_points, column_points, indexing="ij")
    seconds = _filled(share) * decode_surface(predictor, shape).at(*lattice)[0]
    seconds = np.concatenate([np.zeros((1, len(column_points))), seconds])
    source = np.full(seconds.shape, SOURCE_CODE[Source.INTERPOLATED], dtype=np.int8)
    return Surface(np.concatenate([[0.0], row_points]), column_points, seconds, source)


def _filled(share: Floats) -> Floats:
    """Where a row was not measured (its cache would not fit), the share at its longest context."""
    filled = share.copy()
    for row in filled:
        known = np.flatnonzero(~np.isnan(row))
        row[:] = np.interp(np.arange(len(row)), known, row[known])
    return filled
