"""Learns whole steps from an engine's log of them, and answers with runtime tables as operators do.

Alone, a step is a launch, its tokens at rates that grow with their number (few tokens wait for the weights),
its sequences, its attention; all non-negative, so no step is shorter for doing more. Mixed with tables
of operators, the log says by which factor each of their parts is slower on that engine, and what is left
over is host time. One pipeline stage: a log does not tell stages apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from servecast.compiler.errors import DataMissingError
from servecast.estimator.learners.uncertainty import ANALYTICAL_HALF_WIDTH, Z_OF_90
from servecast.estimator.measurement import Floats
from servecast.estimator.predictor import BEYOND_FACTOR
from servecast.estimator.step_log import StepLog
from servecast.estimator.tables import (
    SOURCE_CODE,
    SOURCES,
    RuntimeTables,
    Source,
    TableBounds,
)

TOKEN_KNOTS = (0, 64, 256, 1024)  # where another token may begin to cost more
LEAST_ERROR = 0.02  # of the logarithm: small errors count alike
ROUNDS = 20
LEAST_STEPS = 50  # fewer tell no spread: it is then assumed, as of a datasheet's times
SPREADS = ("token_spread", "sequence_spread", "prefill_spread", "decode_spread")


@dataclass(frozen=True, slots=True)
class StepModel:
    """Seconds: a step's launch, each token beyond a knot, each sequence, any prefill, each (query, key)
    pair of prefill, any decode, each decode, each cached token of the decodes.
    """

    launch_s: float
    token_s: tuple[float, ...]  # by TOKEN_KNOTS
    sequence_s: float
    prefill_s: float
    pair_s: float
    any_decode_s: float
    decode_s: float
    cached_s: float
    max_tokens: int  # of any step it learnt from
    spread: float  # standard deviation of the logarithm, of steps it had not seen

    def tables(self, bounds: TableBounds) -> RuntimeTables:
        """One stage, everything a simulation within ``bounds`` can ask for; no host time beside the steps."""
        tokens = np.arange(bounds.max_batched_tokens + 1, dtype=np.float64)
        beyond = np.maximum(tokens[:, None] - np.array(TOKEN_KNOTS), 0)
        of_tokens = np.where(tokens > 0, self.launch_s + beyond @ np.array(self.token_s), 0.0)
        sequences = np.arange(bounds.max_num_seqs + 1, dtype=np.float64)
        context = _axis(bounds.context_step, bounds.max_context_tokens)
        chunk = _axis(bounds.chunk_step, bounds.max_batched_tokens)
        cached = _axis(bounds.kv_step, bounds.kv_capacity_tokens)
        decodes = self.any_decode_s + self.decode_s * sequences[:, None] + self.cached_s * cached
        decodes[0] = 0.0
        return RuntimeTables(
            token_s=of_tokens[None],
            sequence_s=self.sequence_s * sequences[None],
            prefill_s=self.pair_s * pairs(context[:, None], chunk)[None],
            prefill_base_s=np.array([self.prefill_s]),
            decode_s=decodes[None],
            send_s=np.zeros((1, len(tokens))),
            host_step_s=0.0,
            context_step_tokens=bounds.context_step,
            chunk_step_tokens=bounds.chunk_step,
            kv_step_tokens=bounds.kv_step,
            token_shares=_shares(tokens <= self.max_tokens),
            sequence_shares=_shares(sequences >= 0),
            prefill_shares=_shares(context <= self.max_tokens),
            decode_shares=_shares(context >= 0),
            **self._uncertainty(tokens, (len(context), len(chunk)), decodes.shape),
        )

    def _uncertainty(
        self, tokens: Floats, prefills: tuple[int, int], decodes: tuple[int, ...]
    ) -> dict[str, Any]:
        """Spread and main source of every cell: a step's parts were timed together, and are off together."""
        beyond = np.where(tokens > self.max_tokens, BEYOND_FACTOR, 1.0)
        interpolated = SOURCE_CODE[Source.INTERPOLATED]
        return {
            "token_spread": np.where(tokens > 0, self.spread * beyond, 0.0),
            "sequence_spread": np.full(decodes[0], self.spread),
            "prefill_spread": np.full(prefills, self.spread),
            "decode_spread": np.full(decodes, self.spread),
            "prefill_source": np.full(prefills, interpolated, dtype=np.int8),
            "decode_source": np.full(decodes, interpolated, dtype=np.int8),
        }


def pairs(context: Floats, tokens: Floats) -> Floats:
    """(query, key) pairs of chunks of ``tokens`` after ``context``."""
    return np.asarray(tokens * context + tokens * (tokens + 1) / 2, dtype=np.float64)


def learn_steps(log: StepLog) -> StepModel:
    """Least relative errors, by non-negative least squares reweighted.

    Raises:
        DataMissingError: the log has no prefill or no decodes to learn from.
    """
    chunked = np.array([len(step) > 0 for step in log.chunks])
    for there, what in ((chunked.any(), "prefill"), ((log.decodes > 0).any(), "decodes")):
        if not there:
            raise DataMissingError(f"the step log has no step with {what} among {len(chunked)}")
    tokens = log.tokens.astype(np.float64)
    amounts = [
        np.ones_like(tokens),
        *(np.maximum(tokens - knot, 0) for knot in TOKEN_KNOTS),
        log.sequences.astype(np.float64),
        chunked.astype(np.float64),
        np.array([sum(m * c + m * (m + 1) / 2 for c, m in step) for step in log.chunks]),
        (log.decodes > 0).astype(np.float64),
        log.decodes.astype(np.float64),
        log.cached_tokens.astype(np.float64),
    ]
    columns = np.stack(amounts, axis=1)
    launch_s, *rest = (float(x) for x in _rates(columns, log.seconds))
    of_tokens, others = tuple(rest[: len(TOKEN_KNOTS)]), rest[len(TOKEN_KNOTS) :]
    sequence_s, prefill_s, pair_s, any_decode_s, decode_s, cached_s = others
    return StepModel(
        *(launch_s, of_tokens, sequence_s, prefill_s, pair_s, any_decode_s, decode_s, cached_s),
        max_tokens=int(tokens.max()),
        spread=_spread(columns, log.seconds),
    )


def corrected(tables: RuntimeTables, log: StepLog) -> RuntimeTables:
    """The operators' tables, each part slower or faster as the log says; parts that it never ran stay.

    Raises:
        DataMissingError: the tables have more than one stage, or none of the log's largest steps.
    """
    _refuse_others(tables, log)
    (host_s, tokens, sequences, prefill, decode), spread = _factors(tables, log)
    told: dict[str, Any] = {
        name: np.where(getattr(tables, name) > 0, spread, 0.0)
        for name, part in zip(SPREADS, _ran(tables, log), strict=True)
        if part
    }
    return replace(
        tables,
        token_s=tokens * tables.token_s,
        sequence_s=sequences * tables.sequence_s,
        prefill_s=prefill * tables.prefill_s,
        prefill_base_s=prefill * tables.prefill_base_s,
        decode_s=decode * tables.decode_s,
        mixed_s=decode * tables.mixed_s,
        host_step_s=host_s,
        **told,
    )


def step_seconds(tables: RuntimeTables, log: StepLog) -> Floats:
    """What the tables say of each step of the log [steps].

    Raises:
        DataMissingError: as ``corrected``.
    """
    _refuse_others(tables, log)
    _, *parts = _amounts(tables, log)
    return np.asarray(tables.host_step_s + np.sum(parts, axis=0), dtype=np.float64)


def _refuse_others(tables: RuntimeTables, log: StepLog) -> None:
    if tables.num_stages > 1:
        raise DataMissingError(
            f"a step log corrects tables of one pipeline stage, these have {tables.num_stages}"
        )
    limits = (
        ("max_batched_tokens", log.tokens, tables.token_s),
        ("max_num_seqs", log.sequences, tables.sequence_s),
    )
    for name, ran, table in limits:
        if ran.max() >= table.shape[1]:
            raise DataMissingError(
                f"step {int(np.argmax(ran)) + 1} of the log needs {name}={ran.max()}, the tables are for"
                f" {name}={table.shape[1] - 1}"
            )


def _ran(tables: RuntimeTables, log: StepLog) -> tuple[bool, ...]:
    """Whether the log has steps with tokens, sequences, prefill and decodes: each SPREADS is then its."""
    return True, True, any(log.chunks), bool((log.decodes > 0).any())


def _factors(tables: RuntimeTables, log: StepLog) -> tuple[list[float], float]:
    """Seconds of each step, and factors of its tokens, sequences, prefill and decodes; and what steps are
    still off by.
    """
    columns = np.stack(_amounts(tables, log), axis=1)
    ran = columns.any(axis=0)
    factors = np.ones(columns.shape[1])
    factors[ran] = _rates(columns[:, ran], log.seconds)
    return [float(factor) for factor in factors], _spread(columns[:, ran], log.seconds)


def _amounts(tables: RuntimeTables, log: StepLog) -> list[Floats]:
    """One, and the seconds of each step's tokens, sequences, prefill and decodes, these with what prefill
    beside them adds: each [steps].
    """
    return [
        np.ones(len(log.seconds)),
        tables.token_s[0, log.tokens],
        tables.sequence_s[0, log.sequences],
        _prefills(tables, log),
        _decodes(tables, log) + _mixed(tables, log),
    ]


def _prefills(tables: RuntimeTables, log: StepLog) -> Floats:
    found = np.zeros(len(log.chunks))
    for i, step in enumerate(log.chunks):
        if step:
            taken = sum(_bilinear(tables, context, tokens) for context, tokens in step)
            found[i] = float(tables.prefill_base_s[0]) + taken
    return found


def _bilinear(tables: RuntimeTables, context: int, tokens: int) -> float:
    table = tables.prefill_s[0]
    at = context / tables.context_step_tokens, tokens / tables.chunk_step_tokens
    i, j = (min(int(x), size - 2) for x, size in zip(at, table.shape, strict=True))
    u, v = at[0] - i, at[1] - j
    low = (1 - v) * table[i, j] + v * table[i, j + 1]
    high = (1 - v) * table[i + 1, j] + v * table[i + 1, j + 1]
    return float((1 - u) * low + u * high)


def _decodes(tables: RuntimeTables, log: StepLog) -> Floats:
    return _by_cache(tables, tables.decode_s[0], log)


def _mixed(tables: RuntimeTables, log: StepLog) -> Floats:
    """What a step's prefill and decodes take in one launch beyond one launch each, where it has both."""
    at = tables.mixed_chunk_tokens
    if not len(at):
        return np.zeros(len(log.chunks))
    chunk = np.array([sum(tokens for _, tokens in step) for step in log.chunks])
    extra = np.stack([_by_cache(tables, table, log) for table in tables.mixed_s[0]], axis=1)
    taken = [np.interp(tokens, at, row) for tokens, row in zip(chunk, extra, strict=True)]
    return np.where(chunk > 0, taken, 0.0)


def _by_cache(tables: RuntimeTables, table: Floats, log: StepLog) -> Floats:
    """[steps] from [decodes, cache points]."""
    at = log.cached_tokens / tables.kv_step_tokens
    low = np.minimum(at.astype(np.int64), table.shape[1] - 2)
    left, right = table[log.decodes, low], table[log.decodes, low + 1]
    return np.asarray(np.where(log.decodes > 0, left + (at - low) * (right - left), 0.0))


def _spread(amounts: Floats, seconds: Floats) -> float:
    """Standard deviation of the logarithm of every other step about what the steps between them say: of the
    normal that holds as many within its 90 % interval.
    """
    even = np.arange(len(seconds)) % 2 == 0
    if len(seconds) < LEAST_STEPS:
        return ANALYTICAL_HALF_WIDTH / Z_OF_90
    errors = np.zeros(len(seconds))
    for known in (even, ~even):
        said = amounts[~known] @ _rates(amounts[known], seconds[known])
        errors[~known] = np.log(np.maximum(said, LEAST_ERROR * seconds[~known]) / seconds[~known])
    return float(np.quantile(np.abs(errors), 0.9)) / Z_OF_90


def _rates(amounts: Floats, seconds: Floats) -> Floats:
    """Non-negative seconds per unit of each column of ``amounts`` [steps, columns]."""
    scales = np.maximum(amounts.max(axis=0), np.finfo(np.float64).tiny)
    scaled = amounts / scales
    weights = 1 / seconds
    found = np.zeros(amounts.shape[1])
    for _ in range(ROUNDS):
        found = nnls(scaled * weights[:, None], seconds * weights)[0]
        thought = np.maximum(scaled @ found, LEAST_ERROR * seconds)
        off = np.maximum(np.abs(np.log(thought / seconds)), LEAST_ERROR)
        weights = 1 / (seconds * np.sqrt(off))
    return np.asarray(found / scales, dtype=np.float64)


def _axis(step: int, bound: int) -> Floats:
    return np.arange(max(2, -(-bound // step) + 1), dtype=np.float64) * step


def _shares(inside: NDArray[np.bool_]) -> Floats:
    """[points, sources]: an estimator's, inside the log or outside."""
    found = np.zeros((len(inside), len(SOURCES)))
    found[:, SOURCE_CODE[Source.INTERPOLATED]] = inside
    found[:, SOURCE_CODE[Source.EXTRAPOLATED]] = ~inside
    return found
