"""How much of a run's predicted time is measured, imported, interpolated, extrapolated or analytical."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.predictor import SOURCE_CODE
from servecast.estimator.tables import SOURCES, RuntimeTables, Source


@dataclass(frozen=True, slots=True, eq=False)
class StepWork:
    """What a run's steps did [steps], and its prompts' lengths [requests]."""

    tokens: Ints
    sequences: Ints
    decodes: Ints
    cached_tokens: Ints  # of the step's decodes
    prefill_s: Floats  # attention of prefill chunks, over all stages
    prompt_tokens: Ints


def time_by_source(tables: RuntimeTables, work: StepWork) -> dict[str, float]:
    """Seconds of all steps by the names of SOURCES, host time among the analytical."""
    by_source = (
        _rows(tables.token_s + tables.send_s, work.tokens) @ tables.token_shares[work.tokens]
        + _rows(tables.sequence_s, work.sequences) @ tables.sequence_shares[work.sequences]
        + _decode(tables, work)
        + _prefill(tables, work)
    )
    by_source[SOURCE_CODE[Source.ANALYTICAL]] += tables.host_step_s * len(work.tokens)
    return {source.value: float(s) for source, s in zip(SOURCES, by_source, strict=True)}


def _rows(table: Floats, index: Ints) -> Floats:
    """[steps], over all stages of a [stages, points] table."""
    return np.asarray(table.sum(axis=0)[index], dtype=np.float64)


def _decode(tables: RuntimeTables, work: StepWork) -> Floats:
    summed = tables.decode_s.sum(axis=0)
    at = np.minimum(work.cached_tokens / tables.kv_step_tokens, summed.shape[1] - 1.0)
    low = np.minimum(at.astype(np.int64), summed.shape[1] - 2)
    left, right = summed[work.decodes, low], summed[work.decodes, low + 1]
    seconds = np.where(work.decodes > 0, left + (at - low) * (right - left), 0.0)
    context = work.cached_tokens / np.maximum(work.decodes, 1)
    return np.asarray(seconds @ _nearest(tables.decode_shares, context, tables), dtype=np.float64)


def _prefill(tables: RuntimeTables, work: StepWork) -> Floats:
    """The steps' time, split as their prompts' would be, each weighted by the square of its length."""
    weights = work.prompt_tokens.astype(np.float64) ** 2
    shares = weights @ _nearest(tables.prefill_shares, work.prompt_tokens, tables)
    return np.asarray(work.prefill_s.sum() * shares / max(weights.sum(), 1.0), dtype=np.float64)


def _nearest(shares: Floats, tokens: Floats | Ints, tables: RuntimeTables) -> Floats:
    point = np.rint(tokens / tables.context_step_tokens).astype(np.int64)
    return np.asarray(shares[np.clip(point, 1, len(shares) - 1)], dtype=np.float64)
