"""One answer for several traces: by the worst case, or by the mean cost of a request."""

from __future__ import annotations

from typing import Any

import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.search.objective import OBJECTIVES
from servecast.simulator.search.robust import IDENTITY, Weighted, check_weights, combined

PER_DOLLAR = OBJECTIVES["qps_per_usd"]


def row(name: str, value: float, replicas: int = 1) -> dict[str, Any]:
    identity = dict.fromkeys(IDENTITY, 1)
    figures = {"qps": value, "qps_per_usd_hour": value, "usd_per_hour": replicas, "gpus": replicas}
    return {
        **identity, **figures, "sku": name, "replicas": replicas, "grounded": True, "metrics": {},
        "binds": {},
    }  # fmt: skip


def trace(name: str, *rows: dict[str, Any], weight: float = 1.0, **more: Any) -> Weighted:
    result = {
        "ranked": list(rows), "infeasible": [], "complete": True, "workload": {"num_requests": 1},
        "question": {}, "elapsed_s": 1.0,
    }  # fmt: skip
    return Weighted(name, weight, {**result, **more})


DAY = trace("day", row("fast", 10.0), row("steady", 6.0))
NIGHT = trace("night", row("fast", 2.0, replicas=3), row("steady", 5.0))


def names(found: dict[str, Any]) -> list[str]:
    return [each["sku"] for each in found["ranked"]]


def test_the_worst_case_prefers_what_is_never_bad() -> None:
    found = combined([DAY, NIGHT], PER_DOLLAR, "worst")
    assert names(found) == ["steady", "fast"]
    assert [each["robust"] for each in found["ranked"]] == [5.0, 2.0]
    assert [each["qps"] for each in found["best"]["traces"]] == [6.0, 5.0]


def test_the_mean_is_of_the_cost_of_a_request_by_weight() -> None:
    mostly_day = trace("day", *DAY.result["ranked"], weight=9.0)
    found = combined([mostly_day, NIGHT], PER_DOLLAR, "mean")
    assert names(found) == ["fast", "steady"]
    assert found["best"]["robust"] == pytest.approx(10 / (9 / 10 + 1 / 2))


def test_a_deployment_carries_the_most_demanding_trace() -> None:
    fast = combined([DAY, NIGHT], PER_DOLLAR, "worst")["ranked"][1]
    assert (fast["replicas"], fast["usd_per_hour"]) == (3, 3)


def test_what_one_trace_refuses_is_refused_with_the_trace_s_name() -> None:
    miss = {**dict.fromkeys(IDENTITY, 1), "sku": "fast", "reason": "too slow"}
    night = trace("night", row("steady", 5.0), infeasible=[miss])
    found = combined([DAY, night], PER_DOLLAR, "worst")
    assert names(found) == ["steady"]
    assert [each["reason"] for each in found["infeasible"]] == ["night: too slow"]


def test_of_costs_the_worst_is_the_highest() -> None:
    found = combined([DAY, NIGHT], OBJECTIVES["cost"], "worst")
    assert [each["robust"] for each in found["ranked"]] == [1, 3]


def test_there_is_a_weight_for_each_trace_or_none() -> None:
    assert check_weights(2, ()) == (1.0, 1.0)
    with pytest.raises(UserError, match="--weight: 1 of them for 2 traces"):
        check_weights(2, (3.0,))
