"""What decodes of unequal contexts take beyond as many of their mean: the longest sequence ends last.

Agents measure one pattern (``agent/kernels/skew.py``); what it takes longer is spread over its length skew,
batch * sum(context^2) / sum(context)^2, which is 1 where all are equal. Where LLMServingSim timed unequal
lengths on FlashAttention 2, that one's blocks tell it (`decode_queue`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servecast.agent.kernels.skew import skewed_lengths
from servecast.compiler.kernels import KernelShape
from servecast.estimator.attention_times import Surface, decode_surface, kind_of
from servecast.estimator.decode_queue import (
    SATURATING,
    TYPICAL,
    longer_by_queue,
    longest_in,
    queue_tokens,
)
from servecast.estimator.learners.flash_decode import BLOCKS_AT_ONCE, FULL
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples

SKEWED = "attention_decode_skewed"
"""Its cases: ``batch`` decodes whose contexts have the mean ``context``."""
LEVELS = 256
POINTS = 8  # of a request's way from its first token to its last
MOST_REQUESTS = 4096


def skewed_kind(decode: KernelKind) -> KernelKind:
    return replace(decode, kernel=SKEWED)


def length_skew(context: Floats) -> float:
    """Of one batch's contexts, 1 where all are equal."""
    return float(len(context) * np.sum(context**2) / np.sum(context) ** 2)


def expected_lengths(prompt_tokens: Ints, output_tokens: Ints) -> tuple[float, ...]:
    """Of sequences in large batches of such requests [requests], LEVELS quantiles relative to their mean:
    each request decodes one token after another, from its prompt's length on, and is in a batch as often as
    it has tokens. None where there are no requests.
    """
    some = slice(None, None, max(1, -(-len(prompt_tokens) // MOST_REQUESTS)))
    prompt, output = (x[some].astype(np.float64) for x in (prompt_tokens, output_tokens))
    if not (output * prompt + output**2).sum() > 0:
        return ()
    at = (np.arange(POINTS) + 0.5) / POINTS
    lengths = (prompt[:, None] + output[:, None] * at).ravel()
    order = np.argsort(lengths)
    lengths, weight = lengths[order], np.repeat(output, POINTS)[order]
    seen = (np.cumsum(weight) - weight / 2) / weight.sum()
    levels = np.interp((np.arange(LEVELS) + 0.5) / LEVELS, seen, lengths)
    return tuple(np.round(levels / levels.mean(), 3).tolist())


def slowdown(
    predictor: Predictor,
    shape: KernelShape,
    lengths: tuple[Floats, Floats],
    drawn: tuple[float, ...],
) -> Floats:
    """Factors of decodes at ``lengths`` (batch, mean context), of one shape; 1 where nobody measured it.

    ``drawn`` are the quantiles of `expected_lengths`, none where all are equal.
    """
    rows = _rows(predictor, shape)
    if rows is None or not drawn:
        return np.ones_like(lengths[0])
    if rows.local.all():
        return _in_proportion(predictor, shape, lengths, (rows, length_skew(np.array(drawn))))
    return _by_queue(predictor, shape, lengths, drawn)


def longer_beside_prefill(
    predictor: Predictor,
    shape: KernelShape,
    lengths: tuple[Floats, Floats],
    drawn: tuple[float, ...],
) -> Floats:
    """Seconds that a launch of decodes beside a prefill takes beyond that of equal lengths and what
    `slowdown` adds to the decodes; 0 where FlashAttention was not measured so.

    No keys are split beside a prefill: the last block walks along the longest sequence, as fast as one block
    can. ``benchmarks/decode_queue.py`` prints how far off LLMServingSim's sweep of such launches is.
    """
    rows = _rows(predictor, shape)
    batch, context = lengths
    if rows is None or rows.local.all() or not drawn:
        return np.zeros_like(batch)
    surface = decode_surface(predictor, shape)
    most, contexts, kv_heads = surface.row_points[-1], surface.column_points[-2:], _kv_heads(shape)
    ends = surface.at(np.full(2, most), contexts)[0]
    key_s = (ends[1] - ends[0]) / (most * (contexts[1] - contexts[0])) / kv_heads
    sizes = _batches(int(batch.max()), kv_heads, predictor.num_sms)
    tail = np.interp(batch, sizes, longest_in(sizes, drawn)) * context * SATURATING * key_s
    alone = surface.at(batch, context)[0] * (slowdown(predictor, shape, lengths, drawn) - 1)
    return np.asarray(np.where(batch > 0, tail - alone, 0.0), dtype=np.float64)


def _rows(predictor: Predictor, shape: KernelShape) -> Samples | None:
    """What was measured of unequal lengths at the shape's heads."""
    samples = predictor.samples.get(skewed_kind(kind_of(shape)))
    if samples is None:
        return None
    same = np.logical_and.reduce([samples.dims[name] == size for name, size in shape.dims])
    return samples.rows(same) if same.any() else None


def _in_proportion(
    predictor: Predictor,
    shape: KernelShape,
    lengths: tuple[Floats, Floats],
    told: tuple[Samples, float],
) -> Floats:
    """An agent's pattern took so much longer, spread over its skew. Large batches have the skew that is told,
    one of ``batch`` drawn from them has 1 / batch of the excess less.
    """
    (batch, context), (rows, skew) = lengths, told
    batches, contexts = (rows.dims[n].astype(np.float64) for n in ("batch", "context"))
    even = decode_surface(predictor, shape).at(batches, contexts)[0]
    patterns = [skewed_lengths(int(b), int(c)) for b, c in zip(batches, contexts, strict=True)]
    pattern = np.array([length_skew(np.array(each, dtype=float)) for each in patterns])
    longer = np.maximum(rows.seconds / even - 1, 0.0) / np.maximum(pattern - 1, np.finfo(float).eps)
    longer = np.where(pattern > 1, longer, 0.0)
    drawn = (skew - 1) * (1 - 1 / np.maximum(batch, 1))
    return 1 + drawn * _between(batches, contexts, longer, (batch, context))


def _by_queue(
    predictor: Predictor,
    shape: KernelShape,
    lengths: tuple[Floats, Floats],
    drawn: tuple[float, ...],
) -> Floats:
    """FlashAttention's blocks tell how much longer, and how batches between the measured ones fare."""
    batch, context = lengths
    surface = decode_surface(predictor, shape)
    queue = _kv_heads(shape), predictor.num_sms
    points = _batches(int(batch.max()), *queue)
    even = np.array([queue_tokens(np.full(b, TYPICAL), *queue) for b in points])
    measured = [int(b) for b in surface.row_points]
    on_lines = [queue_tokens(np.full(b, TYPICAL), *queue) for b in measured]
    longer = longer_by_queue(points, drawn, *queue) * even / np.interp(points, measured, on_lines)
    share = _beyond_launch(surface, batch, context)
    return np.asarray(1 + (np.interp(batch, points, longer) - 1) * share, dtype=np.float64)


def _kv_heads(shape: KernelShape) -> int:
    return dict(shape.dims)["kv_heads"]


def _batches(most: int, kv_heads: int, num_sms: int) -> tuple[int, ...]:
    """Batch sizes to look at: a twelfth apart, and both sides of where keys are split no longer."""
    whole = int(np.ceil(FULL * BLOCKS_AT_ONCE * num_sms / kv_heads))
    found = {1, most} | {b for b in (whole - 1, whole) if 1 <= b <= most}
    batch = 1
    while batch < most:
        found.add(batch)
        batch = max(batch + 1, batch * 13 // 12)
    return tuple(sorted(found))


def _beyond_launch(surface: Surface, batch: Floats, context: Floats) -> Floats:
    """The share of a launch's time that its length decides."""
    shortest = surface.at(np.ones_like(batch), np.full_like(context, surface.column_points[0]))[0]
    seconds = surface.at(batch, context)[0]
    return np.asarray(np.clip(1 - shortest / np.maximum(seconds, shortest), 0.0, 1.0))


def _between(
    batches: Floats, contexts: Floats, values: Floats, at: tuple[Floats, Floats]
) -> Floats:
    """Linear along the contexts of each measured batch, then between batches; the ends hold outside."""
    points = np.unique(batches)
    curves = []
    for point in points:
        here = np.flatnonzero(batches == point)
        here = here[np.argsort(contexts[here])]
        curves.append(np.interp(at[1], contexts[here], values[here]))
    place = np.interp(at[0], points, np.arange(len(points)))
    low = np.minimum(place.astype(np.int64), max(len(points) - 2, 0))
    stacked = np.stack([*curves, curves[-1]])
    first, second = (np.take_along_axis(stacked, i[None], axis=0)[0] for i in (low, low + 1))
    return np.asarray(first + (place - low) * (second - first), dtype=np.float64)
