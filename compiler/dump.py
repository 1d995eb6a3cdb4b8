"""A sharded program and its memory as text a person can check against a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from servecast.compiler.dump_text import (
    flops_per_token,
    format_text,
    kind_text,
    shape_text,
    table_lines,
)
from servecast.compiler.kernels import MAX_CASE_S, MIN_CASE_S, KernelShape, kernel_shapes, num_cases
from servecast.compiler.memory import MemoryPlan
from servecast.compiler.program import LayerRun, Program
from servecast.compiler.sharded import Call, Rows, Run, ShardedProgram, Stage


def emit_ir(program: Program) -> str:
    """The unsharded program: every site with how ranks cut it."""
    lines = [
        f"model {program.model}",
        f"parameters {program.parameters:,}",
        f"context {program.context_tokens:,} tokens",
        f"layers {program.num_layers}",
        f"KV bytes per token {program.kv_bytes_per_token:,}",
    ]
    if len(program.layers) > 1:
        lines.append(f"in order: {_order_text(program.layers)}")
    counts = {run.name: 0 for run in program.runs}
    for run in program.runs:
        counts[run.name] += run.count
    for run in {run.name: run for run in program.runs}.values():
        lines += ["", f"{run.name} x {counts[run.name]}"]
        rows = [
            (
                site.name,
                kind_text(site.op),
                shape_text(site.op),
                format_text(site.op),
                site.split.value,
            )
            for site in run.sites
        ]
        lines += table_lines(("operator", "kind", "shape", "format", "split"), rows, "lllll")
    return "\n".join(lines) + "\n"


def emit_plan(program: Program, sharded: ShardedProgram, plan: MemoryPlan | None = None) -> str:
    """What one rank of each stage runs, with weights, FLOPs per token and collectives."""
    parallelism = sharded.parallelism
    lines = [
        f"model {sharded.model}   parameters {program.parameters:,}   "
        f"context {sharded.context_tokens:,} tokens",
        f"tp {parallelism.tp}  pp {parallelism.pp}  ep {parallelism.ep}  dp {parallelism.dp}   "
        f"{parallelism.gpus} GPUs",
        *(f"note: {note}" for note in sharded.notes),
    ]
    for stage in sharded.stages:
        lines += ["", *_stage_lines(stage)]
    if plan is not None:
        lines += ["", *memory_lines(plan)]
    return "\n".join(lines) + "\n"


def _stage_lines(stage: Stage) -> list[str]:
    layers = sum(run.count for run in stage.runs if _is_layer(run))
    head = (
        f"stage {stage.index}   {layers} layers   weights per GPU {stage.weight_bytes:,} B   "
        f"KV per token {stage.kv_bytes_per_token:,} B"
    )
    lines = [head]
    distinct = _merged(stage.runs)
    if len(distinct) < len(stage.runs):
        lines.append(f"in order: {_order_text([r for r in stage.runs if _is_layer(r)])}")
    rows = [
        _call_row(run.name if i == 0 else "", run.count if i == 0 else None, call)
        for run in distinct
        for i, call in enumerate(run.calls)
    ]
    header = ("run", "x", "operator", "kind", "shape per GPU", "format", "weights B", "FLOP/token")
    return lines + table_lines(header, rows, "lrllllrr")


def _is_layer(run: Run) -> bool:
    return run.name.startswith("layer")


MAX_FOLD = 64  # layers of a pattern that repeats; published models have patterns of two to eight


def _order_text(runs: Sequence[Run | LayerRun]) -> str:
    """``18 x (1 layer_a, 1 layer_b)``: runs with their longest repetition at the front folded."""
    names = [f"{run.count} {run.name}" for run in runs]
    folded: list[str] = []
    while names:
        length, times = max(
            ((n, _repetitions(names, n)) for n in range(1, min(len(names) // 2, MAX_FOLD) + 1)),
            key=lambda fold: (fold[0] * fold[1] if fold[1] > 1 else 0, -fold[0]),
            default=(1, 1),
        )
        piece = ", ".join(names[:length])
        folded.append(f"{times} x ({piece})" if times > 1 else piece)
        names = names[length * times :]
    return ", ".join(folded)


def _repetitions(names: Sequence[str], length: int) -> int:
    """How often the first ``length`` names stand in a row at the front."""
    times = 1
    while names[length * times : length * (times + 1)] == names[:length]:
        times += 1
    return times


def _merged(runs: Iterable[Run]) -> list[Run]:
    """Each distinct run once, with its layers counted together, in order of appearance."""
    merged: dict[str, Run] = {}
    for run in runs:
        before = merged.get(run.name)
        merged[run.name] = replace(run, count=run.count + (before.count if before else 0))
    return list(merged.values())


def _call_row(run: str, count: int | None, call: Call) -> tuple[str, ...]:
    weight_bytes, flops = call.op.weight_bytes, flops_per_token(call.op)
    name = call.name + (" *" if call.rows is Rows.LAST_TOKENS else "")
    if call.row_factor != 1:
        name += f" (rows x {call.row_factor:g})"
    return (
        run,
        "" if count is None else str(count),
        name,
        kind_text(call.op),
        shape_text(call.op),
        format_text(call.op),
        f"{weight_bytes:,}" if weight_bytes else "",
        f"{flops:,}" if flops else "",
    )


def memory_lines(plan: MemoryPlan) -> list[str]:
    """The memory plan, every term on its line."""
    rows = [(name, f"{num_bytes:,}") for name, num_bytes in plan.terms]
    rows += [
        ("KV cache", f"{plan.kv_blocks * plan.kv_bytes_per_block:,}"),
        ("GPU memory", f"{plan.total_bytes:,}"),
    ]
    end = (
        f"{plan.kv_blocks:,} KV blocks of {plan.block_tokens} tokens "
        f"({plan.kv_blocks * plan.block_tokens:,} tokens) at utilisation {plan.utilisation:g}"
    )
    if any(part.window for part in plan.kv_layers):
        blocks, groups = plan.hybrid_blocks
        end += f"; vLLM's hybrid manager logs {blocks:,}, {groups} of them for {plan.block_tokens} tokens"
        if plan.sequence_tokens is None:
            end += "; windows counted as full layers, see --sequence-tokens"
    if plan.missing_bytes:
        end = f"does not fit: {plan.missing_bytes:,} B short of a single KV block"
    head = f"memory of a GPU of stage {plan.stage}"
    share = f"{1 - plan.utilisation:.0%}"
    note = (
        "activations and sampler take turns: the larger counts; CUDA context, graphs and collective "
        f"buffers live in the {share} left free, and eat into the cache where they exceed it"
    )
    return [head, *table_lines(("term", "bytes"), rows, "lr"), note, end]


def distinct_kernels(sharded: Iterable[ShardedProgram]) -> list[KernelShape]:
    """What there is to profile, each shape once, over degrees and models, sorted."""
    shapes = {
        shape
        for program in sharded
        for stage in program.stages
        for run in stage.runs
        for call in run.calls
        for shape in kernel_shapes(call.op)
    }
    return sorted(shapes)


def emit_kernels(shapes: Sequence[KernelShape]) -> str:
    """The shapes with their number of points, and the least and most seconds that measuring them takes."""
    rows = [
        (
            shape.kernel,
            shape.dtype,
            shape.kv_dtype,
            str(num_cases(shape)),
            f"{num_cases(shape) * MIN_CASE_S:.0f}-{num_cases(shape) * MAX_CASE_S:.0f}",
            " ".join(f"{name}={value}" for name, value in shape.dims),
        )
        for shape in shapes
    ]
    cases = sum(map(num_cases, shapes))
    least, most = (math.ceil(cases * case_s / 60) for case_s in (MIN_CASE_S, MAX_CASE_S))
    head = (
        f"{len(shapes)} kernels, about {cases:,} cases, "
        f"{least:,} to {most:,} minutes on one GPU of a kind"
    )
    table = table_lines(("kernel", "format", "kv", "cases", "seconds", "sizes"), rows, "lllrrl")
    return "\n".join([head, *table]) + "\n"
