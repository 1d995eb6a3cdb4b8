"""What each operator of a step takes: runtime tables hold the sums of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.ir import KvWrite
from servecast.compiler.kernels import KernelShape, kernel_shapes
from servecast.compiler.sharded import Call, Rows, ShardedProgram
from servecast.estimator.attention_times import prefill_times
from servecast.estimator.build import decode_times
from servecast.estimator.engine_profile import EngineProfile
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import COLLECTIVES
from servecast.estimator.predictor import Predictor
from servecast.estimator.tables import TableBounds
from servecast.estimator.token_times import (
    Launch,
    Sum,
    launch_of,
    send_times,
    sequence_times,
    token_times,
)


class Part(StrEnum):
    """The part of a step's time that an operator belongs to, and so what its size is."""

    TOKENS = "tokens"
    COLLECTIVES = "collectives"
    SENDS = "sends"
    SEQUENCES = "sequences"
    DECODE = "decode"
    PREFILL = "prefill"


@dataclass(frozen=True, slots=True, eq=False)
class OperatorTimes:
    """One operator of a rank, launched ``count`` times in a step over all stages.

    ``by_source`` are seconds of all these launches, [sources, …]: by a step's tokens or sequences; of DECODE
    [decodes, cache points]; of PREFILL [context points], of a whole prompt that long.
    """

    call: Call
    shape: KernelShape
    part: Part
    count: int
    by_source: Floats


def operator_times(
    sharded: ShardedProgram,
    sku: Sku,
    bounds: TableBounds,
    predictor: Predictor,
    engine: EngineProfile,
) -> list[OperatorTimes]:
    """Every operator, equal calls of all layers and stages together, in the order in which they come.

    Collectives are as long as nothing hides them, whatever the engine's ``overlap``.
    """
    times = _Times(sharded, sku, bounds, predictor, engine)
    return [times.of(call, shape, count) for (call, shape), count in _counts(times).items()]


@dataclass(frozen=True, slots=True)
class _Times:
    sharded: ShardedProgram
    sku: Sku
    bounds: TableBounds
    predictor: Predictor
    engine: EngineProfile

    def of(self, call: Call, shape: KernelShape, count: int) -> OperatorTimes:
        part = part_of(call, shape)
        total = self.sum_of(part, launch_of(call, shape), count)
        attends = part in (Part.DECODE, Part.PREFILL)
        factor = self.engine.attention_factor if attends else self.engine.matrix_factor
        return OperatorTimes(call, shape, part, count, total.by_source * factor)

    def sum_of(self, part: Part, launch: Launch, count: int) -> Sum:
        launches = Counter({launch: count})
        alone = replace(self.engine, overlap=0.0, host_per_sequence_s=0.0)
        match part:
            case Part.DECODE:
                return decode_times(launches, self.predictor, self.bounds)
            case Part.PREFILL:
                return self.prompts(launch, count)
            case Part.SENDS:
                return send_times(launches, self.sends, self.bounds.max_batched_tokens)
            case Part.SEQUENCES:
                return sequence_times(launches, self.predictor, self.bounds.max_num_seqs, alone)
            case _:
                most = self.bounds.max_batched_tokens
                return token_times(launches, self.predictor, most, alone)

    @property
    def sends(self) -> Predictor:
        if self.sharded.parallelism.gpus <= self.sku.gpus_per_node:
            return self.predictor
        across = replace(self.sku, link_bytes_per_s=self.sku.network_bytes_per_s)
        return replace(self.predictor, sku=across)

    def prompts(self, launch: Launch, count: int) -> Sum:
        points = -(-self.bounds.max_context_tokens // self.bounds.context_step) + 1
        context = np.arange(max(2, points), dtype=np.float64) * self.bounds.context_step
        curve = prefill_times(self.predictor, launch.shape)
        seconds, source = curve.chunk_s(0 * context, context)
        total = Sum.over(len(context))
        total.add(count * (seconds + curve.base_s), source)
        return total


def part_of(call: Call, shape: KernelShape) -> Part:
    if shape.kernel == "send":
        return Part.SENDS
    if shape.kernel.endswith("_decode"):
        return Part.DECODE
    if shape.kernel.endswith("_prefill"):
        return Part.PREFILL
    if call.rows is Rows.LAST_TOKENS:
        return Part.SEQUENCES
    return Part.COLLECTIVES if shape.kernel in COLLECTIVES else Part.TOKENS


def _counts(times: _Times) -> Counter[tuple[Call, KernelShape]]:
    counts = Counter[tuple[Call, KernelShape]]()
    for call, count in _calls(times.sharded):
        if not (isinstance(call.op, KvWrite) and times.predictor.attention_writes_kv):
            for shape in kernel_shapes(call.op):
                counts[call, shape] += count
    return counts


def _calls(sharded: ShardedProgram) -> Iterator[tuple[Call, int]]:
    for stage in sharded.stages:
        for run in stage.runs:
            yield from ((call, run.count) for call in run.calls)
