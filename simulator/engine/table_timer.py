"""How long a batch of plain objects takes: `RuntimeTables`' formula, for `object_engine.py`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.scheduling import Batch


def interpolate(row: Sequence[float], at: float) -> float:
    """Linear between the points; beyond the last, the last two are extended."""
    i = min(int(at), len(row) - 2)
    return row[i] + (row[i + 1] - row[i]) * (at - i)


def at_tokens(row: Sequence[float], tokens: int) -> float:
    """The point; beyond the last, where policies without a token budget get, the upper half's slope."""
    last = len(row) - 1
    if tokens <= last:
        return row[tokens]
    return row[last] + (row[last] - row[last // 2]) / (last - last // 2) * (tokens - last)


class TableTimer:
    """`RuntimeTables`' formula on lists, added up in the order in which it is written there."""

    def __init__(self, tables: RuntimeTables) -> None:
        self.host_step_s = tables.host_step_s
        self._token_s, self._sequence_s = tables.token_s.tolist(), tables.sequence_s.tolist()
        self._prefill_s, self._base_s = tables.prefill_s.tolist(), tables.prefill_base_s.tolist()
        self._mixed_s, self._mixed_tokens = (
            tables.mixed_s.tolist(),
            tables.mixed_chunk_tokens.tolist(),
        )
        self._decode_s, self._send_s = tables.decode_s.tolist(), tables.send_s.tolist()
        self._per_context, self._per_chunk, self._per_kv = (
            1.0 / tables.context_step_tokens,
            1.0 / tables.chunk_step_tokens,
            1.0 / tables.kv_step_tokens,
        )

    def stage_s(self, batch: Batch, stage: int) -> float:
        tokens = sum(n for _, n in batch.jobs)
        time_s: float = at_tokens(self._token_s[stage], tokens)
        time_s += self._sequence_s[stage][len(batch.jobs)]
        cached = [processed - 1 for processed, prefilled in batch.before if prefilled]
        if len(cached) < len(batch.jobs):
            time_s += self._base_s[stage] + self.chunks_s(batch, stage)
        if cached:
            time_s += interpolate(self._decode_s[stage][len(cached)], sum(cached) * self._per_kv)
            if len(cached) < len(batch.jobs) and self._mixed_tokens:
                time_s += self.mixed_s(stage, tokens - len(cached), cached)
        return time_s

    def mixed_s(self, stage: int, chunk_tokens: int, cached: Sequence[int]) -> float:
        """What chunks and decodes in one launch take besides; the nearest point outside of the measured."""
        points: list[float] = self._mixed_tokens
        above = min(bisect_left(points, chunk_tokens), len(points) - 1)
        below = max(above - 1, 0)
        x = sum(cached) * self._per_kv
        left = interpolate(self._mixed_s[stage][below][len(cached)], x)
        right = interpolate(self._mixed_s[stage][above][len(cached)], x)
        if below == above:
            return right
        share = (chunk_tokens - points[below]) / (points[above] - points[below])
        return left + (right - left) * min(share, 1.0)

    def chunks_s(self, batch: Batch, stage: int) -> float:
        """Attention of the prefill chunks."""
        table = self._prefill_s[stage]
        time_s = 0.0
        for (_, tokens), (processed, prefilled) in zip(batch.jobs, batch.before, strict=True):
            if not prefilled:
                x, y = processed * self._per_context, tokens * self._per_chunk
                i = min(int(x), len(table) - 2)
                below, above = interpolate(table[i], y), interpolate(table[i + 1], y)
                time_s += below + (above - below) * (x - i)
        return time_s

    def send_s(self, batch: Batch, stage: int) -> float:
        return at_tokens(self._send_s[stage], sum(n for _, n in batch.jobs))
