"""Runtime tables: every time the simulator can ask for, of one (model, SKU, parallelism), in seconds.

Dense arrays, so that a step's time is a few loads. Built once by ``build_tables``; cached in the store.
What reads tables needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int8]

CONTEXT_CELLS = 256
CHUNK_STEP_TOKENS = (
    32  # not a share of the largest step: a time must not depend on what else is asked
)
CACHE_CELLS = 512


class Source(StrEnum):
    """Where a predicted time comes from, best first; the order indexes every ``shares`` axis."""

    MEASURED = "measured"  # this very case, by our own agent
    IMPORTED = "imported"  # this very case, in imported data
    INTERPOLATED = "interpolated"  # an estimator, inside the data
    EXTRAPOLATED = "extrapolated"  # an estimator, outside the data
    ANALYTICAL = "analytical"  # the datasheet and a named efficiency


SOURCES = tuple(Source)
SOURCE_CODE = {source: i for i, source in enumerate(SOURCES)}


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeTables:
    """Times per pipeline stage. A step of T tokens with S sequences, of which B decode with K cached
    tokens in all, and prefill chunks (c, m) takes in stage p

        token_s[p, T] + sequence_s[p, S]
        + (prefill_base_s[p] + sum of prefill_s[p] at (c, m), bilinear)   if it has prefill chunks
        + decode_s[p, B] at K, linear                                     if B > 0
        + mixed_s[p, :, B] at the chunks' tokens and K, bilinear          if it has both
        + send_s[p, T]                                                    towards stage p + 1

    and ``host_step_s`` passes on the host between a step's end and the next one's launch.

    Shapes: token_s, send_s [stages, max_batched_tokens + 1]; sequence_s [stages, max_num_seqs + 1];
    prefill_s [stages, context points, chunk points], point i at i * context_step_tokens (or
    chunk_step_tokens); decode_s [stages, max_num_seqs + 1, cache points], point i at
    i * kv_step_tokens; mixed_s [stages, mixed points, max_num_seqs + 1, cache points], point i at
    mixed_chunk_tokens[i] tokens of prefill, the nearest beyond the last, no points where nobody measured
    prefill and decodes in one launch. No tokens, no sequences, no chunk and no decodes take no time;
    decodes over an empty cache take a launch's.
    """

    token_s: Floats
    sequence_s: Floats
    prefill_s: Floats
    prefill_base_s: Floats
    decode_s: Floats
    send_s: Floats
    host_step_s: float
    context_step_tokens: int
    chunk_step_tokens: int
    kv_step_tokens: int
    # Share of time by SOURCES, over all stages; context point i is at i * context_step_tokens.
    token_shares: Floats  # [max_batched_tokens + 1, sources], sends included
    sequence_shares: Floats  # [max_num_seqs + 1, sources]
    prefill_shares: Floats  # [context points, sources], of a whole prompt of that length
    decode_shares: Floats  # [context points, sources], of decodes at that context
    # What operator times may be off by, of each cell over all stages: a standard deviation by the time. And,
    # as an index into SOURCES, where most of a cell's time comes from. Empty where nobody says.
    token_spread: Floats = field(default_factory=lambda: np.zeros(0))  # [tokens], sends included
    sequence_spread: Floats = field(default_factory=lambda: np.zeros(0))
    prefill_spread: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # [context, chunk]
    decode_spread: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # [decodes, cache]
    prefill_source: Codes = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int8))
    decode_source: Codes = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int8))
    mixed_s: Floats = field(default_factory=lambda: np.zeros((1, 0, 1, 2)))
    mixed_chunk_tokens: Floats = field(default_factory=lambda: np.zeros(0))
    # [stages, 2, tokens]: of token_s, what ranks do on each other's tokens, each having as many: experts that
    # they share, and gathering rows and scattering results. No points where they share none.
    shared_s: Floats = field(default_factory=lambda: np.zeros((1, 2, 0)))
    graph_tokens: int = (
        0  # of the largest captured graph, which ranks that share experts replay together
    )

    @property
    def num_stages(self) -> int:
        return int(self.token_s.shape[0])

    def scaled(self, matrix: float, attention: float) -> RuntimeTables:
        """With attention slower by one factor, every other kernel by another: clocks under load."""
        if matrix == attention == 1.0:
            return self
        multiplies = ("token_s", "sequence_s", "send_s", "shared_s")
        times = {name: getattr(self, name) * matrix for name in multiplies}
        attends = ("prefill_s", "prefill_base_s", "decode_s", "mixed_s")
        times |= {name: getattr(self, name) * attention for name in attends}
        return replace(self, **times)


@dataclass(frozen=True, slots=True)
class TableBounds:
    """The largest step, sequence count, context and cache that a simulation may ask for.

    ``drawn`` is what to expect of a batch's contexts: quantiles relative to their mean, none where all are
    equal.
    """

    max_batched_tokens: int
    max_num_seqs: int
    max_context_tokens: int
    kv_capacity_tokens: int
    drawn: tuple[float, ...] = ()

    @property
    def context_step(self) -> int:
        return max(1, -(-self.max_context_tokens // CONTEXT_CELLS))

    @property
    def chunk_step(self) -> int:
        return CHUNK_STEP_TOKENS

    @property
    def kv_step(self) -> int:
        return max(1, -(-self.kv_capacity_tokens // CACHE_CELLS))


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
