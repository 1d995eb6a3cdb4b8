"""Sharding: laws that hold for every model, and a tiny model cut by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.attention import Attention
from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import ShardError
from servecast.compiler.formats import FP8
from servecast.compiler.ir import (
    Collective,
    CollectiveKind,
    Embedding,
    KvWrite,
    Linear,
    Norm,
    Rope,
    Sample,
)
from servecast.compiler.program import Program
from servecast.compiler.shard import layers_per_stage, shard
from servecast.compiler.sharded import Parallelism, ShardedProgram

TINY = """
model "tiny" {{
    context 64
    let hidden = {heads} * 4, ffn = {ffn}, vocab = {vocab}
    let heads = {heads}, kv_heads = {kv_heads}, head = 4
    embedding vocab -> hidden
    repeat {layers} {{
        residual {{
            rms_norm hidden
            linear hidden -> (heads + 2*kv_heads) * head  split columns by kv_heads
            rope (heads + kv_heads) x head
            attention heads/kv_heads x head
            linear heads*head -> hidden  split rows
        }}
        residual {{
            rms_norm hidden
            linear hidden -> 2*ffn  split columns
            swiglu ffn
            linear ffn -> hidden  split rows
        }}
    }}
    rms_norm hidden
    linear hidden -> vocab  split columns  at last_token
}}
"""


def tiny(heads: int = 4, kv_heads: int = 2, ffn: int = 24, layers: int = 3) -> Program:
    text = TINY.format(heads=heads, kv_heads=kv_heads, ffn=ffn, layers=layers, vocab=32)
    return compile_text(text, "tiny.llm").model()


def layer(program: ShardedProgram) -> dict[str, object]:
    run = next(run for run in program.stages[0].runs if run.name.startswith("layer"))
    return {call.name: call.op for call in run.calls}


def token_flops(program: ShardedProgram) -> int:
    """FLOPs of one row through every linear layer of one rank of each stage."""
    return sum(
        run.count * call.op.flops(1)
        for stage in program.stages
        for run in stage.runs
        for call in run.calls
        if isinstance(call.op, Linear)
    )


powers = st.sampled_from([1, 2, 4, 8])


@given(kv_heads=powers, group=st.integers(1, 3), ffn=st.integers(1, 5), tp=powers)
def test_ranks_share_the_work_of_what_is_not_replicated(
    kv_heads: int, group: int, ffn: int, tp: int
) -> None:
    program = tiny(heads=8 * group, kv_heads=8, ffn=8 * ffn)
    whole, rank = shard(program, Parallelism()), shard(program, Parallelism(tp=tp))
    assert token_flops(rank) * tp == token_flops(whole)
    norms = sum(
        s.op.weight_bytes * r.count for r in program.runs for s in r.sites if isinstance(s.op, Norm)
    )  # every rank holds the norms
    held = [sum(stage.weight_bytes for stage in p.stages) - norms for p in (whole, rank)]
    assert held[1] * tp == held[0]


@given(layers=st.integers(1, 9), pp=st.integers(1, 9))
def test_stages_hold_every_layer_once(layers: int, pp: int) -> None:
    program = tiny(layers=layers)
    if pp > layers:
        with pytest.raises(ShardError, match=f"pp {pp} exceeds the {layers} layers"):
            shard(program, Parallelism(pp=pp))
        return
    stages = shard(program, Parallelism(pp=pp)).stages
    assert sum(run.count for s in stages for run in s.runs if run.name == "layer") == layers
    assert (
        sum(s.weight_bytes for s in stages) == shard(program, Parallelism()).stages[0].weight_bytes
    )


def test_sharding_by_one_is_the_identity() -> None:
    program = tiny()
    (stage,) = shard(program, Parallelism()).stages
    calls = [call for run in stage.runs for call in run.calls]
    sites = [site for run in program.runs for site in run.sites]
    kept = [site for site in sites if not isinstance(site.op, Collective)]
    assert [call.op for call in calls] == [site.op for site in kept]


def test_a_tiny_model_over_two_ranks_by_hand() -> None:
    ops = layer(shard(tiny(heads=4, kv_heads=2, ffn=24), Parallelism(tp=2)))
    assert ops["qkv_proj"] == Linear(16, (2 + 2 * 1) * 4)
    assert ops["rotary_emb"] == Rope(heads=3, head_dim=4, rotary_dim=4)
    assert ops["kv_write"] == KvWrite(width=2 * 1 * 4)
    assert ops["attn"] == Attention(heads=2, kv_heads=1, head_dim=4)
    assert ops["o_proj"] == Linear(8, 16)
    assert ops["o_proj_all_reduce"] == Collective(CollectiveKind.ALL_REDUCE, 16, 2)
    assert ops["gate_up_proj"] == Linear(16, 24)
    assert ops["down_proj"] == Linear(12, 16)


def test_kv_heads_are_replicated_when_ranks_exceed_them() -> None:
    sharded = shard(tiny(heads=4, kv_heads=2), Parallelism(tp=4))
    assert layer(sharded)["attn"] == Attention(heads=1, kv_heads=1, head_dim=4)
    assert layer(sharded)["qkv_proj"] == Linear(16, 3 * 4)
    assert sharded.notes == ("2 KV heads over tp 4: each is held by 2 ranks",)


def test_replicated_kv_heads_are_written_by_each_rank_that_holds_them() -> None:
    assert layer(shard(tiny(heads=4, kv_heads=2), Parallelism(tp=4)))["kv_write"] == KvWrite(2 * 4)


def test_a_vocabulary_that_does_not_divide_is_padded() -> None:
    text = TINY.format(heads=4, kv_heads=2, ffn=24, layers=1, vocab=33)
    (stage,) = shard(compile_text(text, "t").model(), Parallelism(tp=2)).stages
    ops = {call.name: call.op for run in stage.runs for call in run.calls}
    assert ops["embed_tokens"] == Embedding(17, 16)
    assert ops["lm_head"] == Linear(16, 17)
    assert ops["logits_all_gather"] == Collective(CollectiveKind.ALL_GATHER, 17, 2)
    assert ops["sample"] == Sample(33)


def test_what_stages_send_has_the_format_of_communication() -> None:
    text = TINY.format(heads=4, kv_heads=2, ffn=24, layers=2, vocab=32)
    program = compile_text(text.replace("context 64", "context 64 communication fp8"), "t").model()
    send = shard(program, Parallelism(pp=2)).stages[0].runs[-1].calls[-1].op
    assert send == Collective(CollectiveKind.SEND, 16, 2, "pp", FP8)


MIXED = """
model "mixed" {
    context 64
    embedding 32 -> 16
    repeat 3 {
        residual {
            rms_norm 16
            linear 16 -> 80  split columns
            swiglu 40
            linear 40 -> 16  split rows
            linear 16 -> (4 + 2*2) * 4  split columns by 2
            attention 4/2 x 4
            linear 16 -> 16  split rows
        }
    }
    linear 16 -> 32  split columns  at last_token
}
"""


def test_only_what_prepares_attention_is_cut_by_heads() -> None:
    """Four ranks hold two KV heads twice; the feed-forward before is cut in four all the same."""
    ops = layer(shard(compile_text(MIXED, "mixed.llm").model(), Parallelism(tp=4)))
    assert ops["gate_up_proj"] == Linear(16, 20)
    assert ops["qkv_proj"] == Linear(16, (1 + 2 * 1) * 4)


def test_a_layer_is_an_attention_with_what_follows_it() -> None:
    feed_first = TINY.format(heads=4, kv_heads=2, ffn=24, layers=3, vocab=32)
    body = feed_first.split("repeat 3 {")[1].split("    rms_norm hidden\n    linear hidden -> v")[0]
    attend, feed = body.split("        residual {")[1:]
    swapped = (
        feed_first.replace(attend, "@")
        .replace(feed.rsplit("}", 1)[0], attend)
        .replace("@", feed.rsplit("}", 1)[0])
    )
    program = compile_text(swapped, "t").model()
    assert program.num_layers == 3
    assert [sum(isinstance(s.op, Attention) for s in run.sites) for run in program.layers] == [
        1
    ] * 3


def test_every_stage_but_the_last_sends_the_hidden_row() -> None:
    stages = shard(tiny(), Parallelism(pp=3)).stages
    lasts = [stage.runs[-1].calls[-1].op for stage in stages]
    send = Collective(CollectiveKind.SEND, 16, 2, "pp")
    assert lasts[:2] == [send, send]
    assert lasts[2] != send


@pytest.mark.parametrize(
    ("layers", "pp", "counts"),
    [(32, 4, [8, 8, 8, 8]), (80, 3, [27, 27, 26]), (61, 4, [15, 15, 16, 15]), (7, 4, [2, 2, 2, 1])],
)
def test_layers_left_over_go_to_the_stages_before_the_last(
    layers: int, pp: int, counts: list[int]
) -> None:
    assert layers_per_stage(layers, pp) == counts


def test_an_indivisible_degree_names_the_operator_and_degrees_that_work() -> None:
    message = (
        r"^tiny: qkv_proj \(line \d+\) has 4 heads, which tp 3 does not divide; "
        r"tp degrees that work: 1, 2, 4$"
    )
    with pytest.raises(ShardError, match=message):
        shard(tiny(), Parallelism(tp=3))


def test_residual_additions_are_fused_into_the_norms_that_follow() -> None:
    (stage,) = shard(tiny(), Parallelism()).stages
    norms = [call.op for run in stage.runs for call in run.calls if isinstance(call.op, Norm)]
    assert [norm.adds_residual for norm in norms] == [True, True, True]
