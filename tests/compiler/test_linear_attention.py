"""Linear attention by the gated delta rule: a state of one size for a cache. Gated attention beside it."""

from __future__ import annotations

import pytest

from servecast.compiler.attention import DeltaAttention
from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import SpecError, UserError
from servecast.compiler.kernels import kernel_shapes
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.program import Program
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram

GIB = 2**30
FULL = """
        rms_norm 16
        linear 16 -> (2*4 + 2*2) * 8  split columns by 2
        attention 4/2 x 8  gated
        linear 32 -> 16  split rows"""
LINEAR = """
        rms_norm 16
        linear 16 -> 2*(4 + 2)*8 + 2*4  split columns by 2
        attention delta 4/2 x 8
        rms_norm 4 x 8
        linear 32 -> 16  split rows"""


def program(*layers: str) -> Program:
    residuals = "".join(f"    residual {{{layer}\n    }}\n" for layer in layers)
    text = f"""model "m" {{
    context 64
    embedding 32 -> 16
    repeat 1 {{
{residuals}    }}
    rms_norm 16
    linear 16 -> 32  split columns  at last_token
}}"""
    return compile_text(text, "m.llm").model("m")


def delta(sharded: ShardedProgram) -> DeltaAttention:
    calls = (call.op for run in sharded.stages[0].runs for call in run.calls)
    return next(op for op in calls if isinstance(op, DeltaAttention))


def plan(source: Program, max_num_seqs: int) -> MemoryPlan:
    return plan_memory(shard(source, Parallelism()), GIB, 0.9, 64, max_num_seqs)


def test_a_sequence_keeps_a_matrix_a_head_and_the_convolutions_last_tokens() -> None:
    op = DeltaAttention(heads=4, key_heads=2, head_dim=8)
    assert op.state_bytes == 4 * (4 * 8 * 8) + 2 * (3 * (4 + 2 * 2) * 8)  # fp32, and bf16
    assert op.parameters == 4 * 64 + 2 * 4
    assert op.flops(10) == 10 * op.flops(1) == 10 * (6 * 4 * 8 * 8 + 2 * 4 * 64)
    assert op.moved_bytes(3) - op.moved_bytes(1) == 2 * 2 * (64 + 32)


def test_its_kernels_know_heads_and_no_context() -> None:
    prefill, decode = kernel_shapes(DeltaAttention(heads=4, key_heads=2, head_dim=8))
    assert (prefill.kernel, decode.kernel) == ("delta_prefill", "delta_decode")
    assert prefill.dims == decode.dims == (("head_dim", 8), ("heads", 4), ("kv_heads", 2))
    assert prefill.kv_dtype == "fp32"


def test_only_layers_with_a_cache_cost_memory_by_the_token() -> None:
    assert program(LINEAR, FULL).kv_bytes_per_token == 2 * 2 * 2 * 8
    assert program(LINEAR, FULL).num_layers == 2


def test_states_are_kept_for_every_sequence_that_may_run() -> None:
    both = program(LINEAR, LINEAR, FULL)
    per_sequence = 2 * DeltaAttention(4, 2, 8).state_bytes
    assert plan(both, 10).state_bytes == 10 * per_sequence
    assert plan(program(FULL), 10).state_bytes == 0
    assert dict(plan(both, 10).terms)["states of linear attention"] == 10 * per_sequence
    left = plan(both, 1).kv_budget_bytes - plan(both, 1001).kv_budget_bytes
    assert left >= 1000 * per_sequence


def test_tensor_parallelism_deals_out_key_heads_with_their_value_heads() -> None:
    op = delta(shard(program(LINEAR, FULL), Parallelism(tp=2)))
    assert (op.heads, op.key_heads, op.head_dim) == (2, 1, 8)
    with pytest.raises(UserError, match="2 parts, which tp 4 does not divide"):
        shard(program(LINEAR, FULL), Parallelism(tp=4))


def test_a_gate_widens_the_queries_and_is_cut_with_them() -> None:
    stage = shard(program(FULL), Parallelism(tp=2)).stages[0]
    calls = {call.name: call.op for run in stage.runs for call in run.calls}
    assert calls["qkv_proj"].out_features == (2 * 2 + 2 * 1) * 8  # type: ignore[union-attr]
    assert calls["attn_gate"].width == 2 * 8  # type: ignore[union-attr]
    assert "o_proj" in calls


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (LINEAR.replace("delta 4/2", "delta 4/3"), "4 value heads are no multiple of 3 key heads"),
        (LINEAR.replace(" + 2*4", ""), "attention delta takes a row of 104 numbers"),
        (FULL.replace("2*4 +", "4 +"), "attention takes a row of 96 numbers"),
        (LINEAR.replace("x 8\n", "x 8  gated\n", 1), "attention delta takes no 'gated'"),
    ],
)
def test_a_wrong_layer_is_named(layer: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        program(layer, FULL)


def test_a_model_without_any_cache_is_refused() -> None:
    with pytest.raises(SpecError, match="no attention, so there are no layers to cache"):
        program(LINEAR)
