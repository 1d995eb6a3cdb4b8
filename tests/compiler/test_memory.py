"""Memory plans: a case by hand, the block count a real engine logged, and laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.memory import plan_memory
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism

SPEC = Path(__file__).parents[2] / "spec"
GIB = 1 << 30
LLAMA = load_spec(SPEC / "llama.llm")
LLAMA_8B = shard(LLAMA.model(), Parallelism())


def test_llama_8b_on_an_rtx_4090_gets_the_blocks_that_vllm_logged() -> None:
    # vLLM 0.19, bf16, max_num_batched_tokens 2048, max_num_seqs 256: num_gpu_blocks 2588.
    plan = plan_memory(LLAMA_8B, shipped_skus()["rtx-4090"].memory_bytes, 0.9, 2048, 256)
    assert plan.kv_blocks == pytest.approx(2588, rel=0.03)


def test_weights_and_kv_bytes_by_hand() -> None:
    plan = plan_memory(LLAMA_8B, 80 * GIB, 0.9, 2048, 256)
    assert plan.weight_bytes == 2 * 8_030_261_248
    assert plan.kv_bytes_per_block == 16 * 32 * 2 * 8 * 128 * 2
    assert plan.kv_blocks == plan.kv_budget_bytes // plan.kv_bytes_per_block


def test_a_model_that_does_not_fit_says_by_how_many_bytes() -> None:
    plan = plan_memory(LLAMA_8B, 16 * GIB, 0.9, 2048, 256)
    assert plan.kv_blocks == 0
    enough = plan_memory(LLAMA_8B, 16 * GIB + round(plan.missing_bytes / 0.9) + 2, 0.9, 2048, 256)
    assert enough.kv_blocks == 1


@given(gib=st.integers(17, 90), tokens=st.sampled_from([256, 2048, 8192]))
def test_more_memory_never_gives_fewer_blocks(gib: int, tokens: int) -> None:
    less = plan_memory(LLAMA_8B, gib * GIB, 0.9, tokens, 128)
    more = plan_memory(LLAMA_8B, (gib + 1) * GIB, 0.9, tokens, 128)
    assert more.kv_blocks >= less.kv_blocks


def test_what_the_headroom_does_not_hold_comes_off_the_cache() -> None:
    roomy = plan_memory(LLAMA_8B, 80 * GIB, 0.9, 2048, 256)
    outside = roomy.cuda_context_bytes + roomy.graph_bytes + roomy.collective_bytes
    inside = roomy.weight_bytes + roomy.sampler_bytes + roomy.library_bytes
    assert roomy.kv_budget_bytes == int(80 * GIB * 0.9) - inside
    full = plan_memory(LLAMA_8B, 80 * GIB, 1.0, 2048, 256)
    assert full.kv_budget_bytes == 80 * GIB - outside - inside


def test_only_ranks_that_meet_others_have_collective_buffers() -> None:
    def buffers(parallelism: Parallelism) -> int:
        sharded = shard(LLAMA.model(), parallelism)
        return plan_memory(sharded, 80 * GIB, 0.9, 2048, 256).collective_bytes

    assert buffers(Parallelism()) == 0
    assert buffers(Parallelism(tp=2, pp=2)) == 2 * buffers(Parallelism(tp=2))


def test_a_window_keeps_no_more_than_its_tokens() -> None:
    gemma = shard(load_spec(SPEC / "gemma3.llm").model(), Parallelism())
    plan = plan_memory(gemma, 80 * GIB, 0.9, 2048, 64)
    per_layer = 2 * 16 * 128 * 2
    assert plan.kv_bytes(512) == 62 * per_layer * 512
    # 10 layers see all of 32,768 tokens, 52 keep their window of 1,024 and the block it slides in.
    assert plan.kv_bytes(32_768) == per_layer * (10 * 32_768 + 52 * (1024 + 16))
    long = replace(plan, sequence_tokens=32_768)
    assert long.kv_blocks > 5 * plan.kv_blocks
    assert replace(plan, sequence_tokens=16).kv_blocks == plan.kv_blocks


def test_blocks_of_a_hybrid_cache_are_counted_as_vllm_groups_them() -> None:
    gemma = shard(load_spec(SPEC / "gemma3.llm").model(), Parallelism())
    plan = plan_memory(gemma, 80 * GIB, 0.9, 2048, 64)
    # 10 global layers and 52 windowed ones: groups of 10, seven of them.
    per_block = 10 * 16 * (2 * 16 * 128 * 2)
    assert plan.hybrid_blocks == (plan.kv_budget_bytes // per_block, 7)
    uniform = plan_memory(LLAMA_8B, 80 * GIB, 0.9, 2048, 64)
    assert uniform.hybrid_blocks == (uniform.kv_blocks, 1)


def test_a_logged_block_count_can_be_pinned() -> None:
    plan = plan_memory(LLAMA_8B, 80 * GIB, 0.9, 2048, 256)
    assert replace(plan, pinned_kv_blocks=2588).kv_blocks == 2588


def test_latent_attention_keeps_one_latent_a_token() -> None:
    deepseek = load_spec(SPEC / "deepseek-v3.llm").model()
    for tp in (1, 8):  # every rank holds all of it
        plan = plan_memory(shard(deepseek, Parallelism(tp=tp)), 900 * GIB, 0.9, 2048, 64)
        assert plan.kv_bytes_per_block == 16 * 61 * (512 + 64) * 2


def test_the_fullest_stage_limits_every_stage() -> None:
    sharded = shard(LLAMA.model("llama-3.1-70b"), Parallelism(tp=4, pp=3))
    plan = plan_memory(sharded, 79 * GIB, 0.9, 2048, 256)
    assert plan.weight_bytes == sharded.stages[plan.stage].weight_bytes
    assert plan.stage in (0, 2)  # the embedding and one layer more, or the head
