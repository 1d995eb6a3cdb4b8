"""Which kernel cases to measure for a model: every shape of its shards, at points even in log space. Pure.

Points come in levels, coarse first, so that a plan cut short at any place still covers every shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from servecast.agent.kernels.skew import skewed_lengths
from servecast.compiler.dump import distinct_kernels
from servecast.compiler.kernels import KernelCase, KernelShape
from servecast.compiler.sharded import ShardedProgram

PREFILLS = ("attention_prefill", "latent_prefill")
DECODES = ("attention_decode", "latent_decode")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")
SMALLEST_PAYLOAD_BYTES = 4096  # one token of the narrowest models
PREFILL_BATCHES = (
    1,
    4,
)  # engines launch the prefills of a step together; four show what that gains

SKEWED = {"attention_decode": "attention_decode_skewed", "experts": "experts_skewed"}
SMALLEST_SKEWED_BATCH = 4  # of fewer sequences half of the tokens are one's share already

LINE = (16.0, 4.0, 2.0, 2.0**0.5)  # of matrix products, whose time goes in stairs
SQUARE = LINE[
    :3
]  # of axes that multiply with each other, and of kernels that are slow by bytes alone
COARSE = LINE[:2]  # of what is compared with a finer grid
PRODUCTS = ("linear", "experts", "router")


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """The largest step that an engine will make: beyond it nothing is measured."""

    max_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_context_tokens: int = 32768


def plan_cases(programs: Iterable[ShardedProgram], limits: PlanLimits) -> list[KernelCase]:
    """Distinct cases of all programs, coarse levels first; equal input gives equal order."""
    levels: dict[int, list[KernelCase]] = {}
    for shape in sorted(distinct_kernels(programs), key=_order):
        for level, case in (*_points(shape, limits), *_skewed_points(shape, limits)):
            levels.setdefault(level, []).append(case)
    ordered = (case for level in sorted(levels) for case in levels[level])
    return list(dict.fromkeys(ordered))


def _order(shape: KernelShape) -> tuple[int, KernelShape]:
    """Collectives last and by degree: an agent keeps the processes of a group for as long as it is wanted."""
    return dict(shape.dims).get("degree", 0), shape


def _points(shape: KernelShape, limits: PlanLimits) -> Iterator[tuple[int, KernelCase]]:
    """Cases of one shape with their levels."""
    if shape.kernel in PREFILLS:
        chunks = log_points(1, limits.max_batched_tokens, SQUARE)
        contexts = [(0, 0), *log_points(256, limits.max_context_tokens, SQUARE)]
        for (a, batch), (b, chunk), (c, context) in product(
            enumerate(PREFILL_BATCHES), chunks, contexts
        ):
            fits = batch * chunk <= limits.max_batched_tokens
            fits &= batch == 1 or max(b, c) < len(COARSE)
            if fits and context + chunk <= limits.max_context_tokens:
                yield a + max(b, c), shape.case(batch=batch, chunk=chunk, context=context)
    elif shape.kernel in DECODES:
        batches = log_points(1, limits.max_num_seqs, SQUARE)
        contexts = log_points(16, limits.max_context_tokens, SQUARE)
        for (a, batch), (b, context) in product(batches, contexts):
            yield max(a, b), shape.case(batch=batch, context=context)
    else:
        yield from _points_of_one_axis(shape, limits)


def _points_of_one_axis(shape: KernelShape, limits: PlanLimits) -> Iterator[tuple[int, KernelCase]]:
    if shape.kernel == "delta_prefill":
        for level, chunk in log_points(1, limits.max_batched_tokens):
            yield level, shape.case(batch=1, chunk=chunk)
    elif shape.kernel == "delta_decode":
        for level, batch in log_points(1, limits.max_num_seqs):
            yield level, shape.case(batch=batch)
    elif shape.kernel in COLLECTIVES:
        if dict(shape.dims)["degree"] > 1:
            most = SMALLEST_PAYLOAD_BYTES * limits.max_batched_tokens
            for level, payload in log_points(SMALLEST_PAYLOAD_BYTES, most, SQUARE):
                yield level, shape.case(payload_bytes=payload)
    else:
        factors = LINE if shape.kernel in PRODUCTS else SQUARE
        # One token of each sequence is drawn, whatever the step's other tokens are.
        most = limits.max_num_seqs if shape.kernel == "sample" else limits.max_batched_tokens
        for level, rows in log_points(1, most, factors):
            yield level, shape.case(rows=rows)


def _skewed_points(shape: KernelShape, limits: PlanLimits) -> Iterator[tuple[int, KernelCase]]:
    """What an uneven step takes more: a coarse grid, for the even ones tell the rest."""
    if shape.kernel not in SKEWED:
        return
    skewed = replace(shape, kernel=SKEWED[shape.kernel])
    if shape.kernel == "experts":
        for level, rows in log_points(1, limits.max_batched_tokens, SQUARE):
            yield level, skewed.case(rows=rows)
        return
    batches = log_points(1, limits.max_num_seqs, COARSE)
    contexts = log_points(16, limits.max_context_tokens, COARSE)
    for (a, batch), (b, context) in product(batches, contexts):
        longest = max(skewed_lengths(batch, context))
        if batch >= SMALLEST_SKEWED_BATCH and longest <= limits.max_context_tokens:
            yield max(a, b), skewed.case(batch=batch, context=context)


def log_points(low: int, high: int, factors: tuple[float, ...] = LINE) -> list[tuple[int, int]]:
    """(level, value): both ends and powers of the first factor at level 0, of the next at 1, and so on."""
    levels = {low: 0, high: 0}
    for level, factor in enumerate(factors):
        value = float(low)
        while value < high:
            levels.setdefault(round(value), level)
            value *= factor
    return sorted((level, value) for value, level in levels.items())
