"""A sharded program and its memory as the JSON of `--emit json`."""

from __future__ import annotations

from servecast.compiler.dump_text import flops_per_token, format_text, kind_text, shape_text
from servecast.compiler.ir import Collective
from servecast.compiler.memory import MemoryPlan
from servecast.compiler.program import Program
from servecast.compiler.sharded import Call, ShardedProgram, Stage


def program_json(
    program: Program, sharded: ShardedProgram, plan: MemoryPlan | None
) -> dict[str, object]:
    """What `--emit json` prints."""
    parallelism = sharded.parallelism
    result: dict[str, object] = {
        "model": program.model,
        "source": program.source,
        "parameters": program.parameters,
        "context_tokens": program.context_tokens,
        "num_layers": program.num_layers,
        "kv_bytes_per_token": program.kv_bytes_per_token,
        "parallelism": {
            "tp": parallelism.tp,
            "pp": parallelism.pp,
            "ep": parallelism.ep,
            "dp": parallelism.dp,
            "gpus": parallelism.gpus,
        },
        "notes": list(sharded.notes),
        "stages": [_stage_json(stage) for stage in sharded.stages],
    }
    if plan is not None:
        result["memory"] = memory_json(plan)
    return result


def _stage_json(stage: Stage) -> dict[str, object]:
    runs = [
        {"name": run.name, "count": run.count, "operators": [_call_json(c) for c in run.calls]}
        for run in stage.runs
    ]
    return {
        "index": stage.index,
        "weight_bytes": stage.weight_bytes,
        "kv_bytes_per_token": stage.kv_bytes_per_token,
        "runs": runs,
    }


def _call_json(call: Call) -> dict[str, object]:
    collective = {}
    if isinstance(call.op, Collective):
        collective = {
            "group": call.op.group,
            "degree": call.op.degree,
            "bytes_per_row": call.op.payload_bytes(1),
        }
    return {
        "name": call.name,
        "kind": kind_text(call.op),
        "rows": call.rows.value,
        "row_factor": call.row_factor,
        "shape": shape_text(call.op),
        "format": format_text(call.op),
        "weight_bytes": call.op.weight_bytes,
        "flops_per_token": flops_per_token(call.op),
        **collective,
    }


def memory_json(plan: MemoryPlan) -> dict[str, object]:
    terms = {name.lower().replace(" ", "_") + "_bytes": value for name, value in plan.terms}
    return {
        "stage": plan.stage,
        "total_bytes": plan.total_bytes,
        "utilisation": plan.utilisation,
        **terms,
        "kv_bytes_per_block": plan.kv_bytes_per_block,
        "block_tokens": plan.block_tokens,
        "kv_blocks": plan.kv_blocks,
        "missing_bytes": plan.missing_bytes,
    }
