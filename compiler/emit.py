"""What `servecast compile` prints: one text for one request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from servecast.compiler.catalog import Spec, find_sku
from servecast.compiler.dump import distinct_kernels, emit_ir, emit_kernels, emit_plan
from servecast.compiler.dump_json import program_json
from servecast.compiler.explain import explain
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.program import Program
from servecast.compiler.shard import all_degrees, shard
from servecast.compiler.sharded import Parallelism, ShardedProgram

MAX_RANKS = 8  # ranks beyond a node's links are rarely worth profiling


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """The GPU whose memory is planned, and the engine's limits on it."""

    sku: str
    utilisation: float
    max_batched_tokens: int
    max_num_seqs: int
    sequence_tokens: int | None = None
    kv_blocks: int | None = None  # that an engine logged


@dataclass(frozen=True, slots=True)
class EmitRequest:
    """``kind`` is plan, ir, kernels or json; ``explained`` an operator to explain instead."""

    model: str | None
    parallelism: Parallelism
    kind: str = "plan"
    explained: str | None = None
    memory: MemoryRequest | None = None
    all_degrees: bool = False
    all_models: bool = False


def emit(spec: Spec, request: EmitRequest) -> str:
    """The text that was asked for.

    Raises:
        UserError: no such model, GPU or operator, or a degree that does not divide.
    """
    program = spec.model(request.model)
    if request.kind == "kernels" and request.explained is None:
        return emit_kernels(distinct_kernels(_plans(spec, program, request)))
    sharded = shard(program, request.parallelism)
    if request.explained is not None:
        return explain(program, sharded, request.explained)
    plan = None if request.memory is None else _memory(spec, sharded, request.memory)
    match request.kind:
        case "ir":
            return emit_ir(program)
        case "json":
            return json.dumps(program_json(program, sharded, plan), indent=2) + "\n"
        case _:
            return emit_plan(program, sharded, plan)


def _memory(spec: Spec, sharded: ShardedProgram, request: MemoryRequest) -> MemoryPlan:
    plan = plan_memory(
        sharded,
        find_sku(spec, request.sku).memory_bytes,
        request.utilisation,
        request.max_batched_tokens,
        request.max_num_seqs,
    )
    return replace(
        plan, sequence_tokens=request.sequence_tokens, pinned_kv_blocks=request.kv_blocks
    )


def _plans(spec: Spec, program: Program, request: EmitRequest) -> Iterator[ShardedProgram]:
    """The plans whose kernels are wanted."""
    for each in spec.models.values() if request.all_models else [program]:
        degrees = all_degrees(each, MAX_RANKS) if request.all_degrees else [request.parallelism]
        for degree in degrees:
            yield shard(each, degree)
