"""What data-parallel ranks do on each other's tokens, told apart from what each does on its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import Rows
from servecast.estimator.engine_profile import ENGINE_PROFILES
from servecast.estimator.predictor import Predictor
from servecast.estimator.tables import TableBounds
from servecast.estimator.token_times import Launch, shared_times, token_times

BOUNDS = TableBounds(64, 16, 4096, 65536)
NONE = ENGINE_PROFILES["none"]
EXPERTS = {"experts": 4, "hidden": 512, "intermediate": 256, "top_k": 2, "total_experts": 8}
SHARED = Launch(
    KernelShape("experts", "bf16", "", tuple(sorted(EXPERTS.items()))), Rows.TOKENS, 2.0
)
GATHER = Launch(
    KernelShape("all_gather", "bf16", "", (("degree", 2),)), Rows.TOKENS, 1.0, 2048, group="ep"
)
OWN = Launch(
    KernelShape("linear", "bf16", "", (("in_features", 512), ("out_features", 512))), Rows.TOKENS
)


def test_experts_that_two_ranks_share_are_told_apart(gpu: Sku) -> None:
    predictor = Predictor(gpu, 100, samples={})
    both = Counter({SHARED: 3, GATHER: 3, replace(GATHER, group="tp"): 1, OWN: 3})
    alone = Counter({OWN: 3, replace(GATHER, group="tp"): 1})
    experts_s, exchange_s = shared_times(both, predictor, BOUNDS, NONE)
    apart_s = token_times(alone, predictor, 64, NONE).seconds
    whole_s = token_times(both, predictor, 64, NONE).seconds
    np.testing.assert_allclose(experts_s + exchange_s + apart_s, whole_s)
    assert experts_s[64] > experts_s[1] > 0
    assert exchange_s[64] > exchange_s[1] > 0


def test_a_rank_with_experts_of_its_own_shares_nothing(gpu: Sku) -> None:
    predictor = Predictor(gpu, 100, samples={})
    own_experts = Counter({replace(SHARED, row_factor=1.0): 3, OWN: 3})
    assert shared_times(own_experts, predictor, BOUNDS, NONE).size == 0
    hiding = replace(NONE, overlap=0.5)
    assert shared_times(Counter({SHARED: 3}), predictor, BOUNDS, hiding).size == 0
