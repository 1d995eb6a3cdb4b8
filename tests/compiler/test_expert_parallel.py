"""Experts over ranks, data-parallel attention and sequence parallelism."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import ShardError
from servecast.compiler.ir import Collective, CollectiveKind, Experts, Norm
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Call, Parallelism, ShardedProgram

SPARSE = """
model "sparse" {
    context 64
    let hidden = 16, ffn = 32, vocab = 32
    embedding vocab -> hidden
    repeat 2 {
        residual {
            rms_norm hidden
            linear hidden -> 48  split columns by 4
            rope 8 x 4
            attention 4 x 4
            linear 16 -> hidden  split rows
        }
        residual {
            rms_norm hidden
            experts 8 choose 2 {
                linear hidden -> 2*ffn  split columns
                swiglu ffn
                linear ffn -> hidden  split rows
            }
            always {
                linear hidden -> 2*ffn  split columns
                swiglu ffn
                linear ffn -> hidden  split rows
            }
        }
    }
    rms_norm hidden
    linear hidden -> vocab  split columns  at last_token
}
"""
PROGRAM = compile_text(SPARSE, "sparse.llm").model()


def calls(sharded: ShardedProgram) -> list[Call]:
    return [call for stage in sharded.stages for run in stage.runs for call in run.calls]


def named(sharded: ShardedProgram, name: str) -> Call:
    return next(call for call in calls(sharded) if call.name == name)


powers = st.sampled_from([1, 2, 4])


@given(tp=powers, dp=powers, ep=st.sampled_from([1, 2, 4, 8]), rows=st.sampled_from([8, 64]))
def test_experts_are_held_once_and_do_every_rows_work(tp: int, dp: int, ep: int, rows: int) -> None:
    assume(tp * dp % ep == 0)
    rank = named(shard(PROGRAM, Parallelism(tp=tp, dp=dp, ep=ep)), "experts")
    whole = named(shard(PROGRAM, Parallelism()), "experts").op
    assert isinstance(whole, Experts)
    assert isinstance(rank.op, Experts)
    ranks = tp * dp
    assert rank.op.weight_bytes * ranks == whole.weight_bytes
    # Each data-parallel rank brings its own rows.
    work = rank.op.flops(round(rows * rank.row_factor)) * ranks
    assert work == whole.flops(rows * dp)


def test_more_ranks_than_a_row_has_experts_exchange_all_to_all_by_hand() -> None:
    sharded = shard(PROGRAM, Parallelism(tp=2, dp=2, ep=4))
    assert named(sharded, "experts").op == Experts(16, 32, experts=2, total_experts=8, top_k=2)
    there = named(sharded, "experts_dispatch").op
    # A row of 16 goes to 2 experts; each of 2 tensor-parallel ranks sends half of the rows.
    assert there == Collective(CollectiveKind.ALL_TO_ALL, 16 * 2 // 2, 4, "ep")
    assert named(sharded, "experts_combine").op == there
    assert named(sharded, "branch_add_all_reduce").op == Collective(
        CollectiveKind.ALL_REDUCE, 16, 2
    )


def test_few_ranks_gather_all_rows_and_scatter_the_results_by_hand() -> None:
    """As vLLM does by default: no rank sends a row twice, however many experts of it are elsewhere.
    After it go two weights and two numbers of experts, of four bytes each: messages of their own.
    """
    sharded = shard(PROGRAM, Parallelism(dp=2, ep=2))
    assert named(sharded, "experts").op == Experts(16, 32, experts=4, total_experts=8, top_k=2)
    there, back = (named(sharded, f"experts_{way}").op for way in ("dispatch", "combine"))
    assert there == Collective(CollectiveKind.ALL_GATHER, 16, 2, "ep")
    assert back == Collective(CollectiveKind.REDUCE_SCATTER, 16 * 2, 2, "ep")
    for what in ("choice_weights", "choices"):
        op = named(sharded, f"experts_{what}").op
        assert op == Collective(CollectiveKind.ALL_GATHER, 2 * 2, 2, "ep")
        assert op.payload_bytes(10) == 10 * 2 * 2 * 4  # rows of both ranks
    assert there.payload_bytes(10) == 10 * 2 * 16 * 2  # of both, in bf16
    assert back.payload_bytes(10) == 10 * 2 * 16 * 2


def test_cut_experts_gather_the_rows_of_other_ranks() -> None:
    sharded = shard(PROGRAM, Parallelism(dp=2))
    assert named(sharded, "experts").op == Experts(16, 16, 8, 8, 2)
    assert named(sharded, "experts").row_factor == 2
    assert named(sharded, "experts_dispatch").op == Collective(
        CollectiveKind.ALL_GATHER, 16, 2, "dp"
    )
    assert named(sharded, "experts_combine").op == Collective(
        CollectiveKind.REDUCE_SCATTER, 32, 2, "dp"
    )


@pytest.mark.parametrize(
    ("parallelism", "message"),
    [
        (Parallelism(tp=4, ep=3), "ep 3 does not divide the 4 ranks of tp x dp"),
        (Parallelism(tp=4, dp=4, ep=16), "has 8 experts, which ep 16 does not divide"),
    ],
)
def test_experts_that_do_not_divide_are_refused(parallelism: Parallelism, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        shard(PROGRAM, parallelism)


def test_a_dense_model_has_no_data_parallel_attention() -> None:
    text = SPARSE.replace("experts 8 choose 2 {", "residual {").replace("always {", "residual {")
    dense = compile_text(text, "dense.llm").model()
    with pytest.raises(ShardError, match="dp 2 needs experts, and the model has none"):
        shard(dense, Parallelism(dp=2))


def test_sequence_parallelism_takes_every_all_reduce_apart() -> None:
    sharded = shard(PROGRAM, Parallelism(tp=2, sequence=True))
    kinds = [call.op.kind for call in calls(sharded) if isinstance(call.op, Collective)]
    assert CollectiveKind.ALL_REDUCE not in kinds
    assert kinds[:3] == [
        CollectiveKind.REDUCE_SCATTER,  # the embedding
        CollectiveKind.ALL_GATHER,
        CollectiveKind.REDUCE_SCATTER,  # attention
    ]
    norms = [call for call in calls(sharded) if isinstance(call.op, Norm)]
    assert {call.row_factor for call in norms} == {0.5}


def test_everything_that_ranks_exchange_has_a_format_of_the_model() -> None:
    """Rows go out to experts in the experts' format; all else moves in the communication format."""
    text = SPARSE.replace("context 64", "context 64 activations int8 communication fp8")
    program = compile_text(text, "sparse.llm").model()
    for ep in (1, 4):
        sharded = shard(program, Parallelism(tp=2, dp=2, ep=ep, pp=2, sequence=True))
        for call in calls(sharded):
            if isinstance(call.op, Collective):
                with_rows = ("experts_dispatch", "experts_choice_weights", "experts_choices")
                expected = "int8" if call.name in with_rows else "fp8"
                assert call.op.format.name == expected, call.name


@given(tp=powers, rows=st.sampled_from([4, 32]))
def test_sequence_parallel_ranks_share_the_norms(tp: int, rows: int) -> None:
    def norm_flops(parallelism: Parallelism) -> int:
        return sum(
            call.op.flops(round(rows * call.row_factor))
            for call in calls(shard(PROGRAM, parallelism))
            if isinstance(call.op, Norm)
        )

    whole = norm_flops(Parallelism())
    assert norm_flops(Parallelism(tp=tp, sequence=True)) * tp == whole
