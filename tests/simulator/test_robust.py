"""One answer for several traces: by the worst case, or by the mean cost of a request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from servecast.compiler.errors import UserError
from servecast.compiler.service import Service
from servecast.simulator.commands.search_job import JobOptions, run_job
from servecast.simulator.search.objective import OBJECTIVES
from servecast.simulator.search.pool import Here
from servecast.simulator.search.robust import IDENTITY, PLACE, Weighted, check_weights, combined
from servecast.simulator.search.task import Demand
from servecast.simulator.traffic.traces import TraceOptions

PER_DOLLAR = OBJECTIVES["qps_per_usd"]


def row(name: str, value: float, replicas: int = 1) -> dict[str, Any]:
    identity = dict.fromkeys(IDENTITY, 1)
    figures = {"qps": value, "qps_per_usd_hour": value, "usd_per_hour": replicas, "gpus": replicas}
    return {
        **identity, **figures, "sku": name, "replicas": replicas, "grounded": True, "metrics": {},
        "binds": {}, "qps_interval": None, "qps_draws": None,
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


def drawn(sku: str, value: float, *factors: float) -> dict[str, Any]:
    return {**row(sku, value), "qps_draws": [value * factor for factor in factors]}


def test_ties_are_told_draw_by_draw_of_what_counts_for_all_traces() -> None:
    """By day `close` is far ahead, which the worst case does not count; by night draws go either way."""
    steady, shaken = (1.0,) * 6, (0.9, 1.1, 0.9, 1.1, 0.9, 1.1)
    day = [drawn("best", 6.0, *steady), drawn("close", 9.0, *steady), drawn("far", 6.0, *steady)]
    night = [drawn("best", 5.0, *steady), drawn("close", 4.9, *shaken), drawn("far", 4.0, *shaken)]
    found = combined([trace("day", *day), trace("night", *night)], PER_DOLLAR, "worst")
    assert [(r["sku"], r["tied_with_best"]) for r in found["ranked"]] == [
        ("best", True), ("close", True), ("far", False),
    ]  # fmt: skip
    assert found["best"]["robust_draws"] == [5.0] * 6
    (tie,) = found["ties"]
    assert (tie["rank"], tie["told_apart_by"]) == (2, "more trace")
    assert found["undrawn"] == 0


def test_what_was_not_drawn_under_each_trace_is_counted_where_it_is_near() -> None:
    day = trace("day", drawn("best", 6.0, *[1.0] * 6), row("near", 5.8), row("far", 2.0))
    found = combined([day, day], PER_DOLLAR, "mean")
    assert not any(each["tied_with_best"] for each in found["ranked"][1:])
    assert found["undrawn"] == 1


def test_what_one_trace_refuses_is_refused_with_the_trace_s_name() -> None:
    miss = {**dict.fromkeys(IDENTITY, 1), "sku": "fast", "reason": "too slow"}
    night = trace("night", row("steady", 5.0), infeasible=[miss])
    found = combined([DAY, night], PER_DOLLAR, "worst")
    assert names(found) == ["steady"]
    assert [each["reason"] for each in found["infeasible"]] == ["night: too slow"]


def test_where_no_configuration_carries_every_trace_the_nearest_miss_is_first() -> None:
    def miss(sku: str, misses: str | None, times: float | None) -> dict[str, Any]:
        identity = {**dict.fromkeys(IDENTITY, 1), "sku": sku}
        return {**identity, "reason": "…", "misses": misses, "times": times}

    day = trace("day", row("a", 1.0), infeasible=[miss("c", None, None), miss("b", "rate", 2.5)])
    short = [miss("d", "target", None), miss("a", "rate", 1.2), miss("e", "target", 1.1)]
    found = combined([day, trace("night", row("b", 1.0), infeasible=short)], PER_DOLLAR, "worst")
    assert [each["sku"] for each in found["infeasible"]] == ["a", "b", "e", "d", "c"]


def test_of_costs_the_worst_is_the_highest() -> None:
    found = combined([DAY, NIGHT], OBJECTIVES["cost"], "worst")
    assert [each["robust"] for each in found["ranked"]] == [1, 3]


def test_of_equal_costs_the_one_with_more_requests_per_dollar_is_first() -> None:
    day = trace("day", row("a", 2.0), row("b", 3.0), row("c", 1.0))
    assert names(combined([day, day], OBJECTIVES["cost"], "mean")) == ["b", "a", "c"]


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


def test_what_is_deployed_for_all_traces_carries_each_at_its_price() -> None:
    """10 GPUs of roles apart for traces that want 7 and 6 of them: no whole copy more of either's own, so
    what carries 5 a dollar by day (35 in all) carries 3.5 a dollar at least."""
    day, night = trace("day", apart(5.0, 3, 1)), trace("night", apart(4.0, 1, 4))
    best = combined([day, night], PER_DOLLAR, "worst")["best"]
    assert best["robust"] == pytest.approx(min(5.0 * 7, 4.0 * 6) / 10)
    assert combined([day, night], OBJECTIVES["cost"], "worst")["best"]["robust"] == 10
    twice = combined([day, trace("night", apart(4.0, 6, 2))], PER_DOLLAR, "worst")["best"]
    assert twice["robust"] == 4.0  # by day two copies of 3P1D: all that is there


def test_roles_apart_are_as_sure_of_all_traces_as_the_most_of_each_role() -> None:
    day, night = apart(5.0, 3, 1), apart(4.0, 1, 4)
    day |= {"rate_confidence": 0.7, "at_confidence": {"prefill": 4, "decode": 1, "usd_per_hour": 9}}
    night |= {
        "rate_confidence": 0.8,
        "at_confidence": {"prefill": 1, "decode": 5, "usd_per_hour": 7},
    }
    best = combined([trace("day", day), trace("night", night)], PER_DOLLAR, "worst")["best"]
    assert best["at_confidence"] == {
        "replicas": 9, "gpus": 13, "usd_per_hour": 13, "prefill": 4, "decode": 5,
    }  # fmt: skip


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


SPEC = Path(__file__).resolve().parents[2] / "spec" / "llama.llm"
CHAT = SPEC.parent / "traces" / "chat.csv"


@dataclass
class Counted:
    """Pools that count their tasks; Ctrl-C comes when one more than ``searches`` is wanted."""

    searches: int = 2
    tasks: int = 0

    def __call__(self, demand: Demand) -> Here:
        if not self.searches:
            raise KeyboardInterrupt
        self.searches -= 1
        counted = self

        class Pool(Here):
            def submit(self, work: Callable[..., Any], *args: Any, doing: str = "") -> Future[Any]:
                counted.tasks += 1
                return super().submit(work, *args, doing=doing)

        return Pool(demand)


def test_a_stop_between_two_traces_shows_the_first_and_is_resumed_with_the_second(
    tmp_path: Path,
) -> None:
    asked = JobOptions(
        SPEC, CHAT, Service("", skus=("a30",), tp=(1, 2), max_num_seqs=(64,), max_batched_tokens=(512,)),
        traffic=TraceOptions(num_requests=200), more_traces=(CHAT,), store=tmp_path / "s.duckdb",
        out=tmp_path / "out", quiet=True, judged=False, cluster=Counted(),
    )  # fmt: skip
    whole = run_job(asked)
    assert whole["complete"]
    assert not list((tmp_path / "out").iterdir())
    partial = run_job(replace(asked, cluster=Counted(searches=1)))
    assert not partial["complete"]
    assert [each["name"] for each in partial["workloads"]] == ["chat.csv"]
    assert partial["ranked"]
    again = Counted()
    resumed = run_job(replace(asked, resume=True, cluster=again))
    assert again.tasks == 2  # the second trace's two placements
    assert resumed["ranked"] == whole["ranked"]
    assert not list((tmp_path / "out").iterdir())
