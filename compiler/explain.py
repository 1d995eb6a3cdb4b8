"""One operator in words: where it comes from, how ranks cut it, what it costs."""

from __future__ import annotations

from typing import assert_never

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.dump_text import format_text, kind_text, shape_text
from servecast.compiler.errors import UserError
from servecast.compiler.ir import (
    Activation,
    Add,
    Collective,
    Embedding,
    Experts,
    KvWrite,
    Linear,
    Norm,
    Operator,
    Rope,
    Router,
    Sample,
)
from servecast.compiler.program import LayerRun, Program, Site, Split
from servecast.compiler.sharded import Call, Parallelism, ShardedProgram
from servecast.compiler.suggest import did_you_mean

_SPLITS = {
    Split.WHOLE: "every rank runs all of it",
    Split.COLUMNS: "each rank runs its share of the heads or outputs",
    Split.ROWS: "each rank runs its share of the inputs; the sums meet in the all-reduce after it",
    Split.JOIN: "the ranks meet here",
}


def explain(program: Program, sharded: ShardedProgram, name: str) -> str:
    """What there is to say of the operators of that name.

    Raises:
        UserError: the model has none.
    """
    found = [(run, site) for run in program.runs for site in run.sites if site.name == name]
    if not found:
        names = {site.name for run in program.runs for site in run.sites}
        hint = did_you_mean(name, names)
        known = ", ".join(sorted(names))
        raise UserError(f"{program.model}: no operator {name!r}{hint}; it has {known}")
    calls = {
        (run.name, call.name): call
        for stage in sharded.stages
        for run in stage.runs
        for call in run.calls
    }
    distinct = {run.name: (run, site) for run, site in found}
    pieces = [
        _piece(program, run, site, calls.get((run.name, name)), sharded.parallelism)
        for run, site in distinct.values()
    ]
    return "\n".join(pieces)


def _piece(
    program: Program, run: LayerRun, site: Site, call: Call | None, parallelism: Parallelism
) -> str:
    count = sum(other.count for other in program.runs if other.name == run.name)
    lines = [
        f"{site.name} in {run.name} ({count} of them), {program.path}:{site.line}",
        f"  kind       {kind_text(site.op)}, {format_text(site.op)}",
        f"  unsharded  {shape_text(site.op)}",
        f"  split      {_SPLITS[site.split]}",
    ]
    degrees = f"tp {parallelism.tp} ep {parallelism.ep} dp {parallelism.dp}"
    if call is None:
        lines.append(f"  per GPU    nothing at {degrees}: there is no one to meet")
        return "\n".join(lines) + "\n"
    lines += [
        f"  per GPU    {shape_text(call.op)} at {degrees}",
        f"  rows       {_rows_text(call)}",
        f"  weights    {call.op.weight_bytes:,} B",
        f"  work       {work_text(call.op)}",
    ]
    return "\n".join(lines) + "\n"


def _rows_text(call: Call) -> str:
    what = "the last token of each sequence" if call.rows == "last_tokens" else "every token"
    factor = "" if call.row_factor == 1 else f", times {call.row_factor:g}"
    return f"{what} of the step{factor}"


def work_text(op: Operator) -> str:  # one case an operator
    """FLOPs or bytes, as the formula with its numbers."""
    match op:
        case Linear():
            return f"2 x {op.in_features} x {op.out_features} = {op.flops(1):,} FLOP a row"
        case Experts():
            pairs = op.routed_rows(1)
            return f"{pairs:g} experts a row on average, {op.flops(1):,} FLOP a row"
        case Router():
            return f"2 x {op.hidden} x {op.experts} = {op.flops(1):,} FLOP a row"
        case Norm() | Rope() | Activation() | Add() | Sample():
            return f"{op.flops(1):,} FLOP and {op.moved_bytes(1):,} B moved a row"
        case Embedding() | KvWrite():
            return f"{op.moved_bytes(1):,} B moved a row"
        case Attention():
            window = f", at most {op.window} keys" if op.window else ""
            per_pair = 4 * op.heads * op.head_dim
            return f"{per_pair:,} FLOP for each query and key it sees{window}; " + _cache_text(op)
        case LatentAttention():
            per_pair = 2 * op.heads * (2 * op.rank + op.rope_dim)
            return f"{per_pair:,} FLOP for each query and key it sees; " + _cache_text(op)
        case DeltaAttention():
            return f"{op.flops(1):,} FLOP a row; {op.state_bytes:,} B of state a sequence"
        case Collective():
            return f"{op.payload_bytes(1):,} B a row over {op.degree} ranks of {op.group}"
        case _:
            assert_never(op)


def _cache_text(op: Attention | LatentAttention) -> str:
    return f"{op.kv_bytes_per_token:,} B of cache a token"
