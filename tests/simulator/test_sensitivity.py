"""What an answer says beyond its ranking: where time goes, what a little more of each thing is worth."""

from __future__ import annotations

from typing import Any

import pytest
from invented_search import SPEC, InventedTimes, question, searching

from servecast.compiler.ir import Collective
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.simulator.search.insight import representatives, without_communication
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.sensitivity import Deployment, Swept, pareto, price_row, slo_cost
from servecast.simulator.search.space import Axes
from servecast.simulator.search.whatif import Point

AXES = Axes(("h100-sxm", "l40s"), (1, 2), (1,), (64,), (512, 2048))


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Ranking:
    journal = tmp_path_factory.mktemp("search") / "search.jsonl"
    return searching(question(AXES), journal, loader=InventedTimes()).run()


def sensitivity(ranking: Ranking) -> dict[str, Any]:
    assert ranking.sensitivity is not None
    return ranking.sensitivity


def explanation(ranking: Ranking) -> dict[str, Any]:
    assert ranking.explanation is not None
    return ranking.explanation


def test_a_looser_target_never_costs_more(ranking: Ranking) -> None:
    curves = sensitivity(ranking)["slo_cost"]
    assert [curve["slo"] for curve in curves] == ["ttft p90", "tbt p99"]
    for curve in curves:
        costs = [point["usd_per_million_output_tokens"] for point in curve["points"]]
        known = [cost for cost in costs if cost is not None]
        assert known == sorted(known, reverse=True)
        assert costs[len(costs) - len(known) :] == known  # none beyond the first that can be met


def test_the_curve_passes_the_answer_near_where_it_is(ranking: Ranking) -> None:
    best = ranking.ranked[0]
    at_the_limit = sensitivity(ranking)["slo_cost"][0]["points"][5]
    assert at_the_limit["limit_s"] == 2.0
    assert at_the_limit["qps_per_usd_hour"] == pytest.approx(best["qps_per_usd_hour"], rel=0.1)


def test_a_token_costs_the_same_in_the_ranking_as_on_the_frontier(ranking: Ranking) -> None:
    """Where a point is at a row's capacity; the run's end, when batches drain, is in neither."""
    rows = dict(enumerate(ranking.ranked, start=1))
    full = [
        (point, rows[point["rank"]])
        for point in sensitivity(ranking)["pareto"]
        if point["rate_per_s"] == rows[point["rank"]]["qps"]
    ]
    assert full
    for point, row in full:
        cost = row["usd_per_million_output_tokens"]
        assert point["usd_per_million_output_tokens"] == pytest.approx(cost)


def test_no_point_of_the_frontier_beats_another(ranking: Ranking) -> None:
    front = sensitivity(ranking)["pareto"]
    figures = [(row["ttft_s"], row["tbt_s"], row["usd_per_million_output_tokens"]) for row in front]
    assert len(front) > 2
    for one in figures:
        assert not any(
            other != one and all(a <= b for a, b in zip(other, one, strict=True))
            for other in figures
        )


def test_the_frontier_knows_of_every_configuration_that_was_searched(ranking: Ranking) -> None:
    front = sensitivity(ranking)["pareto"]
    for row in ranking.ranked:
        cost, metrics = row["usd_per_million_output_tokens"], row["metrics"]
        mine = (metrics["ttft_s"]["p90"], metrics["tbt_s"]["p99"], cost)
        assert any(
            point["ttft_s"] <= mine[0]
            and point["tbt_s"] <= mine[1]
            and point["usd_per_million_output_tokens"] <= mine[2]
            for point in front
        )


def test_every_second_of_the_gpus_and_of_the_requests_is_told(ranking: Ranking) -> None:
    told = explanation(ranking)
    for shares in (told["gpu_time"], told["request_time"]):
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
    assert told["gpu_time"]["communication"] == pytest.approx(
        0, abs=1e-9
    )  # invented times have none
    assert told["gpu_time"]["prefill"] + told["gpu_time"]["decode_weights"] > 0.5


def test_more_of_anything_good_never_lowers_capacity(ranking: Ranking) -> None:
    prices = {row["input"]: row for row in explanation(ranking)["shadow_prices"]}
    assert set(prices) == {"ttft p90", "tbt p99", "GPU memory", "prefix-cache hits"}
    assert all(row["qps"] > -0.02 for row in prices.values())  # a step of the grid each
    assert prices["prefix-cache hits"]["qps"] > 0


def test_longer_requests_and_slower_operators_carry_less(ranking: Ranking) -> None:
    bars = {row["input"]: row for row in sensitivity(ranking)["tornado"]}
    base = sensitivity(ranking)["tornado_base"]
    for name in ("prompt length", "output length", "operator times"):
        assert bars[name]["at_low"] > base > bars[name]["at_high"]
    assert "request rate" in bars


def test_a_price_worked_by_hand() -> None:
    row = price_row("ttft p90", "+10%", 10.0, 12.5)
    assert row["qps"] == pytest.approx(0.25)
    assert row["usd_per_million_output_tokens"] == pytest.approx(-0.2)
    assert row["text"] == "ttft p90 +10%: capacity +25.0%, cost of a token -20.0%"
    assert "capacity < 0.1%, cost of a token < 0.1%" in price_row("", "", 10.0, 10.005)["text"]


def swept(rank: int, usd_per_hour: float, *points: tuple[float, float]) -> Swept:
    """Points of (rate, latency) with one target; the queue never waits."""
    row = {"usd_per_hour": usd_per_hour, "gpus": 1, "sku": "g", "tp": 1, "pp": 1,
           "max_num_seqs": 1, "max_batched_tokens": 1}  # fmt: skip
    made = tuple(Point(rate, (latency, 0.0), latency, 0.01) for rate, latency in points)
    return Swept(Deployment(rank, row, None), made)  # type: ignore[arg-type]  # no fleet is run


def test_a_capacity_lies_between_the_rates_that_were_run() -> None:
    one = swept(1, 1.0, (10.0, 1.0), (20.0, 3.0))
    assert one.capacity_per_s((2.0, 5.0)) == 15.0
    assert one.capacity_per_s((9.0, 5.0)) == 20.0
    assert one.capacity_per_s((0.5, 5.0)) == 0.0


def test_a_curve_takes_the_configuration_that_is_cheapest_at_each_limit() -> None:
    slow = swept(1, 1.0, (10.0, 1.5), (20.0, 3.0))
    fast = swept(2, 4.0, (10.0, 0.1), (40.0, 3.0))
    points = slo_cost([slow, fast], [Slo("ttft", 90, 2.0)], output_tokens=100.0)[0]["points"]
    assert [point.get("rank") for point in points[:2]] == [2, 2]
    assert points[5]["rank"] == 1
    assert [point["limit_s"] for point in points if point["at_most"]] == [2.4, 3.0, 4.0]
    assert pareto([slow, fast], [], 100.0)[0]["rank"] == 1


def test_the_best_of_each_placement_and_budget_stands_for_it() -> None:
    row = {"sku": "a", "precision": "declared", "tp": 1, "pp": 1, "ep": 1, "dp": 1,
           "max_batched_tokens": 512}  # fmt: skip
    other = {**row, "max_batched_tokens": 2048}
    assert representatives([row, row, other, row]) == [0, 2]


def test_only_collectives_are_missing_without_communication() -> None:
    sharded = shard(load_spec(SPEC).model(), Parallelism(tp=2))
    silent = without_communication(sharded)
    kept = [c for s in silent.stages for r in s.runs for c in r.calls]
    every = [c for s in sharded.stages for r in s.runs for c in r.calls]
    assert [c for c in every if not isinstance(c.op, Collective)] == kept
    assert len(kept) < len(every)
    alone = shard(load_spec(SPEC).model(), Parallelism())
    assert without_communication(alone) == alone
