"""One answer for several traces: by the worst case, or by the mean cost of a request."""

from __future__ import annotations

from typing import Any

import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.search.objective import OBJECTIVES
from servecast.simulator.search.robust import IDENTITY, PLACE, Weighted, check_weights, combined

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


def test_several_traces_are_carried_as_surely_as_the_least_sure_of_them() -> None:
    day, night = (
        {**row("fast", 5.0, n), "rate_confidence": sure, "at_confidence": {"usd_per_hour": n + 1}}
        for n, sure in ((1, 0.7), (3, 0.8))
    )
    found = combined([trace("day", day), trace("night", night)], PER_DOLLAR, "worst")["best"]
    assert (found["rate_confidence"], found["at_confidence"]) == (0.7, {"usd_per_hour": 4})
    night["at_confidence"] = None
    found = combined([trace("day", day), trace("night", night)], PER_DOLLAR, "worst")["best"]
    assert found["at_confidence"] is None


def test_what_one_trace_refuses_is_refused_with_the_trace_s_name() -> None:
    miss = {**dict.fromkeys(IDENTITY, 1), "sku": "fast", "reason": "too slow"}
    night = trace("night", row("steady", 5.0), infeasible=[miss])
    found = combined([DAY, night], PER_DOLLAR, "worst")
    assert names(found) == ["steady"]
    assert [each["reason"] for each in found["infeasible"]] == ["night: too slow"]


def test_of_costs_the_worst_is_the_highest() -> None:
    found = combined([DAY, NIGHT], OBJECTIVES["cost"], "worst")
    assert [each["robust"] for each in found["ranked"]] == [1, 3]


def apart(value: float, prefill: int, decode: int, seqs: int = 64) -> dict[str, Any]:
    """A pair: a prefill replica has two GPUs, a decode replica one, a GPU costs a dollar."""

    def role(replicas: int, gpus: int) -> dict[str, Any]:
        rented = {"replicas": replicas, "gpus": gpus, "usd_per_hour": gpus}
        return {
            **dict.fromkeys(PLACE, 1),
            "max_num_seqs": seqs,
            "max_batched_tokens": 512,
            **rented,
        }

    parts = {"prefill": role(prefill, 2 * prefill), "decode": role(decode, decode)}
    gpus = 2 * prefill + decode
    both = row("apart", value, prefill + decode)
    return {**both, "max_num_seqs": seqs, "gpus": gpus, "usd_per_hour": gpus, **parts}


def test_each_role_carries_the_trace_that_asks_most_of_it() -> None:
    """Long prompts by day, long answers by night: 3 and 4 replicas, though neither trace needs 7."""
    day, night = trace("day", apart(5.0, 3, 1)), trace("night", apart(4.0, 1, 4))
    best = combined([day, night], PER_DOLLAR, "worst")["best"]
    assert (best["prefill"]["replicas"], best["decode"]["replicas"]) == (3, 4)
    assert (best["replicas"], best["gpus"], best["usd_per_hour"]) == (7, 10, 10)


def test_a_pair_that_wants_other_limits_for_each_trace_says_so() -> None:
    day, night = trace("day", apart(5.0, 1, 1)), trace("night", apart(4.0, 1, 1, seqs=128))
    found = combined([day, night], PER_DOLLAR, "worst")
    assert found["ranked"] == []
    (miss,) = found["infeasible"]
    assert "night: 512 tokens a prefill step, 128 decodes at once" in miss["reason"]


def test_there_is_a_weight_for_each_trace_or_none() -> None:
    assert check_weights(2, ()) == (1.0, 1.0)
    with pytest.raises(UserError, match="--weight: 1 of them for 2 traces"):
        check_weights(2, (3.0,))
