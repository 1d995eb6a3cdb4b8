"""What decodes of unequal contexts take beyond as many of their mean: the longest sequence ends last.

Agents measure one pattern (``agent/kernels/skew.py``), LLMServingSim's profiles another; what it takes longer
is spread over its length skew, batch * sum(context^2) / sum(context)^2, which is 1 where all are equal.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servecast.agent.kernels.skew import skewed_lengths
from servecast.compiler.kernels import KernelShape
from servecast.estimator.attention_times import decode_surface, kind_of
from servecast.estimator.importers.llmservingsim_skew import swept_lengths
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor

SKEWED = "attention_decode_skewed"
"""Its cases: ``batch`` decodes whose contexts have the mean ``context``."""


def skewed_kind(decode: KernelKind) -> KernelKind:
    return replace(decode, kernel=SKEWED)


def length_skew(context: Floats) -> float:
    """Of one batch's contexts, 1 where all are equal."""
    return float(len(context) * np.sum(context**2) / np.sum(context) ** 2)


def expected_length_skew(prompt_tokens: Ints, output_tokens: Ints) -> float:
    """Of large batches of such requests [requests]: each decodes one token after another, from its prompt's
    length on, and is in a batch as often as it has tokens.
    """
    prompt, output = prompt_tokens.astype(np.float64), output_tokens.astype(np.float64)
    steps = output.sum()
    once = (output * prompt + output**2 / 2).sum()
    squared = (output * prompt**2 + prompt * output**2 + output**3 / 3).sum()
    return float(max(1.0, steps * squared / once**2)) if once > 0 else 1.0


def slowdown(
    predictor: Predictor, shape: KernelShape, lengths: tuple[Floats, Floats], skew: float
) -> Floats:
    """Factors of decodes at ``lengths`` (batch, mean context), of one shape; 1 where nobody measured it.

    ``skew`` is that of large batches: one of ``batch`` drawn from them has 1 / batch of the excess less.
    """
    batch, context = lengths
    samples = predictor.samples.get(skewed_kind(kind_of(shape)))
    if samples is None or skew <= 1:
        return np.ones_like(batch)
    same = np.logical_and.reduce([samples.dims[name] == size for name, size in shape.dims])
    if not same.any():
        return np.ones_like(batch)
    rows = samples.rows(same)
    batches, contexts = (rows.dims[n].astype(np.float64) for n in ("batch", "context"))
    even = decode_surface(predictor, shape).at(batches, contexts)[0]
    pattern = np.array(
        [_pattern_skew(*row) for row in zip(batches, contexts, rows.local, strict=True)]
    )
    longer = np.maximum(rows.seconds / even - 1, 0.0) / np.maximum(pattern - 1, np.finfo(float).eps)
    longer = np.where(pattern > 1, longer, 0.0)
    drawn = (skew - 1) * (1 - 1 / np.maximum(batch, 1))
    return 1 + drawn * _between(batches, contexts, longer, (batch, context))


def _pattern_skew(batch: float, context: float, local: bool) -> float:
    """Of the lengths that stand behind a row, an agent's or an imported one."""
    lengths = skewed_lengths(int(batch), int(context)) if local else swept_lengths(batch, context)
    return length_skew(np.array(lengths, dtype=float))


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
