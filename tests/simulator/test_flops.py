"""Model FLOPs of served requests, against sums made by hand."""

from __future__ import annotations

import numpy as np

from servecast.compiler.attention import Attention
from servecast.compiler.ir import Collective, CollectiveKind, Linear
from servecast.compiler.sharded import Call, Parallelism, Rows, Run, ShardedProgram, Stage
from servecast.simulator.metrics.flops import flops_model


def tiny(parallelism: Parallelism, window: int | None = None) -> ShardedProgram:
    layer = Run(
        "layer",
        (
            Call("up", Linear(4, 6)),
            Call("attention", Attention(heads=2, kv_heads=1, head_dim=3, window=window)),
            Call("join", Collective(CollectiveKind.ALL_REDUCE, 4, parallelism.tp)),
        ),
        count=5,
    )
    head = Run("head", (Call("head", Linear(4, 10), Rows.LAST_TOKENS),))
    return ShardedProgram("tiny", 100, parallelism, (Stage(0, (layer, head)),))


def test_a_request_worked_by_hand() -> None:
    served = flops_model(tiny(Parallelism())).served(np.array([3]), np.array([2]))
    tokens, outputs, pairs = 4, 2, 4 * 5 // 2
    linear = tokens * 5 * (2 * 4 * 6) + outputs * (2 * 4 * 10)
    assert served[0] == linear + pairs * 5 * (4 * 2 * 3)


def test_a_window_limits_the_pairs_a_query_sees() -> None:
    served = flops_model(tiny(Parallelism(), window=2)).served(np.array([3]), np.array([2]))
    linear = 4 * 5 * (2 * 4 * 6) + 2 * (2 * 4 * 10)
    assert served[0] - linear == (1 + 2 + 2 + 2) * 5 * (4 * 2 * 3)


def test_ranks_add_up() -> None:
    one = flops_model(tiny(Parallelism())).served(np.array([9]), np.array([7]))
    four = flops_model(tiny(Parallelism(tp=4))).served(np.array([9]), np.array([7]))
    assert four[0] == 4 * one[0]
