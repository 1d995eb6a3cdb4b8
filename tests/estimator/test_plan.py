"""Which cases are measured: laws of the plan, and one plan worked by hand."""

from __future__ import annotations

from servecast.compiler.attention import Attention
from servecast.compiler.ir import Collective, CollectiveKind, Experts, Linear, Sample
from servecast.compiler.sharded import Call, Parallelism, Run, ShardedProgram, Stage
from servecast.estimator.profiling.plan import PlanLimits, log_points, plan_cases

LIMITS = PlanLimits(max_batched_tokens=64, max_num_seqs=8, max_context_tokens=512)


def program(*calls: Call, tp: int = 1) -> ShardedProgram:
    return ShardedProgram("tiny", 512, Parallelism(tp=tp), (Stage(0, (Run("layer", calls, 2),)),))


LINEAR = Call("q_proj", Linear(32, 16))
EXPERTS = Call("experts", Experts(32, 16, experts=4, total_experts=4, top_k=2))
ATTENTION = Call("attention", Attention(heads=4, kv_heads=2, head_dim=8))


def test_points_of_an_axis_worked_by_hand() -> None:
    assert log_points(1, 20) == [
        *((0, 1), (0, 16), (0, 20)),
        (1, 4),
        *((2, 2), (2, 8)),
        *((3, 3), (3, 6), (3, 11)),
    ]


def test_the_smallest_and_the_largest_step_come_first() -> None:
    rows = [dict(case.dims)["rows"] for case in plan_cases([program(LINEAR)], LIMITS)]
    assert {1, 64} <= set(rows[:3])
    assert min(rows) == 1
    assert max(rows) == 64


def test_a_shape_that_two_layers_share_is_measured_once() -> None:
    once = plan_cases([program(LINEAR)], LIMITS)
    assert plan_cases([program(LINEAR, Call("k_proj", Linear(32, 16)))] * 2, LIMITS) == once


def test_no_case_exceeds_the_largest_step() -> None:
    for case in plan_cases([program(ATTENTION)], LIMITS):
        dims = dict(case.dims)
        if case.kernel == "attention_prefill":
            assert dims["batch"] * dims["chunk"] <= 64
            assert dims["context"] + dims["chunk"] <= 512
        else:
            assert dims["batch"] <= 8
            assert dims["context"] <= 512


def test_no_more_tokens_are_drawn_than_sequences_run() -> None:
    rows = [dict(c.dims)["rows"] for c in plan_cases([program(Call("sample", Sample(64)))], LIMITS)]
    assert max(rows) == 8


def test_prefill_has_cases_with_and_without_history() -> None:
    cases = plan_cases([program(ATTENTION)], LIMITS)
    contexts = {dict(c.dims)["context"] for c in cases if c.kernel == "attention_prefill"}
    assert 0 in contexts
    assert max(contexts) > 0


def test_a_collective_of_one_rank_is_not_measured() -> None:
    alone = Call("all_reduce", Collective(CollectiveKind.ALL_REDUCE, 32, degree=1))
    pair = Call("all_reduce", Collective(CollectiveKind.ALL_REDUCE, 32, degree=2))
    assert plan_cases([program(alone)], LIMITS) == []
    assert plan_cases([program(pair)], LIMITS) != []


def test_every_shape_is_covered_before_any_is_refined() -> None:
    cases = plan_cases([program(LINEAR, Call("o_proj", Linear(16, 32)))], LIMITS)
    first = cases[: len(cases) // 4]
    assert {dict(case.dims)["in_features"] for case in first} == {16, 32}


def test_uneven_steps_are_planned_beside_even_ones_on_a_coarse_grid() -> None:
    cases = plan_cases([program(ATTENTION)], LIMITS)
    skewed = [dict(c.dims) for c in cases if c.kernel == "attention_decode_skewed"]
    points = sorted((d["batch"], d["context"]) for d in skewed)
    # The longest of 4 or 8 sequences holds half of the tokens: 2 or 4 times the mean, 512 at most.
    assert points == [(4, 16), (4, 64), (4, 256), (8, 16), (8, 64)]
    assert {d["heads"] for d in skewed} == {4}


def test_experts_are_planned_with_even_and_with_uneven_routing() -> None:
    cases = plan_cases([program(EXPERTS)], LIMITS)
    rows = {
        name: [dict(c.dims)["rows"] for c in cases if c.kernel == name]
        for name in ("experts", "experts_skewed")
    }
    assert sorted(rows["experts_skewed"]) == [1, 2, 4, 8, 16, 32, 64]
    assert set(rows["experts_skewed"]) < set(rows["experts"])
