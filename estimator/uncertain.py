"""Which kernels of a step are the least certain: what to profile where two answers cannot be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import Rows, ShardedProgram
from servecast.estimator.attention_times import (
    columns_of,
    decode_surface,
    kind_of,
    prefill_times,
)
from servecast.estimator.envelope import described
from servecast.estimator.learners.uncertainty import (
    ANALYTICAL_HALF_WIDTH,
    Z_OF_90,
    Calibration,
)
from servecast.estimator.measurement import Floats
from servecast.estimator.noise import ASSUMED
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Codes, Predictor
from servecast.estimator.tables import SOURCE_CODE, SOURCES, Source
from servecast.estimator.token_times import Launch, launches_of

Timed = tuple[Floats, Codes]


@dataclass(frozen=True, slots=True)
class Step:
    """``decodes`` sequences with ``context`` cached tokens each, and a prompt of the other tokens."""

    tokens: int
    decodes: int
    context: int


@dataclass(frozen=True, slots=True)
class UncertainOperator:
    """A kernel shape's share of a step's time on the GPUs, and the 90 % half-width of its logarithm."""

    operator: str
    share: float
    half_width: float
    source: Source


def uncertain_operators(
    sharded: ShardedProgram,
    predictor: Predictor,
    calibrations: Mapping[KernelKind, Calibration],
    step: Step,
) -> list[UncertainOperator]:
    """Every kernel shape of the step, first what adds most to its uncertainty."""
    launches = Counter[Launch]()
    for stage in sharded.stages:
        launches.update(launches_of(stage, predictor))
    seconds = dict[KernelShape, float]()
    half_widths, sources = dict[KernelShape, float](), dict[KernelShape, Source]()
    for launch, count in launches.items():
        taken, code = _timed(launch, predictor, step)
        shape = launch.shape
        seconds[shape] = seconds.get(shape, 0.0) + count * float(taken[0])
        kind = kind_of(shape)
        measured = Z_OF_90 * predictor.noise.get(kind, ASSUMED)
        half_widths[shape] = float(half_width(calibrations.get(kind), (taken, code), measured)[0])
        sources[shape] = SOURCES[int(code[0])]
    total = max(sum(seconds.values()), float(np.finfo(np.float64).tiny))
    found = [
        UncertainOperator(
            described(shape), seconds[shape] / total, half_widths[shape], sources[shape]
        )
        for shape in seconds
    ]
    return sorted(found, key=lambda x: (-x.share * x.half_width, x.operator))


def half_width(calibration: Calibration | None, timed: Timed, measured: float) -> Floats:
    """90 % half-widths of the logarithm of predicted times; ``measured`` is that of measured ones."""
    seconds, source = timed
    found = np.full(len(seconds), measured)
    if calibration is not None:
        outside = (source == SOURCE_CODE[Source.EXTRAPOLATED]).astype(np.int64)
        modelled = outside | (source == SOURCE_CODE[Source.INTERPOLATED])
        found = np.where(modelled, calibration.half_width(seconds, outside, 0.9), found)
    return np.where(source == SOURCE_CODE[Source.ANALYTICAL], ANALYTICAL_HALF_WIDTH, found)


def _timed(launch: Launch, predictor: Predictor, step: Step) -> Timed:
    """Of one launch, [1]; no time where the step has nothing for it."""
    shape, prompt = launch.shape, step.tokens - step.decodes
    if shape.kernel.endswith("_decode"):
        at = np.array([step.decodes]), np.array([step.context])
        return _or_nothing(step.decodes, decode_surface(predictor, shape).at(*at))
    if shape.kernel.endswith("_prefill"):
        curve = prefill_times(predictor, shape)
        seconds, source = curve.chunk_s(np.zeros(1), np.array([float(prompt)]))
        return _or_nothing(prompt, (seconds + curve.base_s, source))
    sequences = step.decodes + (prompt > 0)
    wanted = sequences if launch.rows is Rows.LAST_TOKENS else step.tokens
    rows = np.ceil(np.array([wanted]) * launch.row_factor).astype(np.int64)
    if launch.bytes_per_row:
        dims = columns_of(shape, 1, payload_bytes=rows * launch.bytes_per_row)
    else:
        dims = columns_of(shape, 1, rows=rows)
    answer = predictor.predict(kind_of(shape), dims)
    return answer.seconds, answer.source


def _or_nothing(wanted: int, timed: Timed) -> Timed:
    return timed if wanted > 0 else (np.zeros(1), timed[1])
