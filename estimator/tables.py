"""Runtime tables: every time the simulator can ask for, of one (model, SKU, parallelism), in seconds.

Dense arrays, so that a step's time is a few loads. Built once by ``build_tables``; cached in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Source(StrEnum):
    """Where a predicted time comes from, best first; the order indexes every ``shares`` axis."""

    MEASURED = "measured"  # this very case, by our own agent
    IMPORTED = "imported"  # this very case, in imported data
    INTERPOLATED = "interpolated"  # an estimator, inside the data
    EXTRAPOLATED = "extrapolated"  # an estimator, outside the data
    ANALYTICAL = "analytical"  # the datasheet and a named efficiency


SOURCES = tuple(Source)


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeTables:
    """Times per pipeline stage. A step of T tokens with S sequences, of which B decode with K cached
    tokens in all, and prefill chunks (c, m) takes in stage p

        token_s[p, T] + sequence_s[p, S]
        + (prefill_base_s[p] + sum of prefill_s[p] at (c, m), bilinear)   if it has prefill chunks
        + decode_s[p, B] at K, linear                                     if B > 0
        + send_s[p, T]                                                    towards stage p + 1

    and ``host_step_s`` passes on the host between a step's end and the next one's launch.

    Shapes: token_s, send_s [stages, max_batched_tokens + 1]; sequence_s [stages, max_num_seqs + 1];
    prefill_s [stages, context points, chunk points], point i at i * context_step_tokens (or
    chunk_step_tokens); decode_s [stages, max_num_seqs + 1, cache points], point i at
    i * kv_step_tokens. No tokens, no sequences, no chunk and no decodes take no time; decodes over an
    empty cache take a launch's.
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

    @property
    def num_stages(self) -> int:
        return int(self.token_s.shape[0])
