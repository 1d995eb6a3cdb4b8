"""The whole search on invented times: the same answer in any order, from the best alone, after a stop."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_search import SMALL, InventedTimes, question, searching, workload

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.service import Slo
from servecast.simulator.search.journal import question_key
from servecast.simulator.search.market import Market, priced
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.space import Axes
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.workload import PrefixBlocks

SPACES: dict[str, dict[str, Any]] = {
    "three GPUs": {},
    "a large model": {
        "axes": replace(SMALL, skus=("h100-sxm", "b200-sxm"), tp=(2, 4, 8)),
        "model": "llama-3.1-70b",
    },
    "whole nodes, routers and orders": {
        "axes": replace(
            SMALL,
            policies=("vllm_v1", "shortest_prompt_first"),
            routers=("round_robin", "least_outstanding"),
            pp=(1,),
        ),
        "market": Market(16, whole_nodes=True),
    },
}


def ranking(tmp_path: Path, **asked: Any) -> Ranking:
    means = {name: asked.pop(name) for name in ("best_only", "resume", "draw_all") if name in asked}
    traffic = workload(rate_per_s=asked.pop("rate_per_s", 20.0))
    return searching(question(**asked), tmp_path / "search.jsonl", traffic, **means).run()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("objective", ["qps_per_usd", "cost"])
def test_the_best_alone_is_the_best_of_all(space: str, objective: str, tmp_path: Path) -> None:
    asked = {**SPACES[space], "objective": objective, "rate_per_s": 60.0}
    every = ranking(tmp_path, **asked)
    race = ranking(tmp_path, **asked, best_only=True)
    first, winner = dict(every.ranked[0]), dict(race.ranked[0])
    for row in (first, winner):  # of other contenders, and their ties
        row.pop("tied_with_best")
    assert winner == first
    assert sum(race.beaten.values()) > len(every.ranked) / 2
    left = len(race.ranked) + len(race.infeasible) + sum(race.beaten.values())
    assert left == len(every.ranked) + len(every.infeasible)


@pytest.mark.parametrize("objective", ["gpus", "energy", "goodput"])
def test_each_objective_has_the_same_best_alone(objective: str, tmp_path: Path) -> None:
    asked = {"objective": objective, "rate_per_s": 40.0}
    every = ranking(tmp_path, **asked)
    race = ranking(tmp_path, **asked, best_only=True)
    assert race.ranked[0]["qps"] == every.ranked[0]["qps"]
    assert every.objective.value(race.ranked[0]) == every.objective.value(every.ranked[0])


def test_no_configuration_has_a_better_figure_than_the_first(tmp_path: Path) -> None:
    for objective in ("gpus", "goodput"):
        found = ranking(tmp_path, objective=objective, rate_per_s=40.0)
        values = [found.objective.value(row) for row in found.ranked]
        assert values == sorted(values, reverse=found.objective.higher_is_better)


def of_a_short_trace(tmp_path: Path, axes: Axes, **asked: Any) -> Ranking:
    """A hundred requests leave before a queue is long: one replica keeps up with them at any rate."""
    short = workload(100, rate_per_s=60.0)
    long = bootstrap(short, 2000, 0)
    journal = tmp_path / "search.jsonl"
    asked = {"market": Market(32), **asked}
    return searching(question(axes, **asked), journal, short, resampled=long).run()


def test_no_more_is_promised_of_a_short_trace_than_its_replicas_carry(tmp_path: Path) -> None:
    found = of_a_short_trace(tmp_path, replace(SMALL, skus=("h100-sxm",)))
    assert found.ranked
    assert all(row["qps"] >= 60.0 for row in found.ranked)  # the trace's own rate


def test_no_more_is_promised_of_roles_apart(tmp_path: Path) -> None:
    """Of the least that carries the trace: most requests per dollar would balance what falls short."""
    skus = ("h100-sxm",)
    axes = replace(
        SMALL, skus=skus, modes=("disaggregated",), prefill_skus=skus, decode_skus=skus, tp=(1,)
    )
    axes = replace(axes, max_num_seqs=(16,), max_batched_tokens=(2048,))
    slos = (Slo("ttft", 90, 2.0), Slo("tpot", 90, 0.1))
    found = of_a_short_trace(tmp_path, axes, objective="cost", slos=slos)
    assert all(row["qps"] >= 60.0 for row in found.ranked)
    row = found.ranked[0]
    assert (row["prefill"]["replicas"], row["decode"]["replicas"]) == (2, 3)


def test_a_tie_that_errors_of_times_make_names_the_kernels_to_profile(tmp_path: Path) -> None:
    """Two GPUs of equal price for their speed: their errors are drawn apart."""
    prices = {"h100-sxm": 2.0, "a100-sxm-80gb": 1.2}
    axes = replace(SMALL, skus=tuple(prices), tp=(1,), max_num_seqs=(128,))
    first = ranking(tmp_path, axes=axes, skus=priced(shipped_skus(), prices))
    leader, other = (next(row for row in first.ranked if row["sku"] == sku) for sku in prices)
    prices["a100-sxm-80gb"] *= 1.01 * other["qps_per_usd_hour"] / leader["qps_per_usd_hour"]
    tied = ranking(tmp_path, axes=axes, skus=priced(shipped_skus(), prices)).ties
    told = [tie for tie in tied if tie["told_apart_by"] == "profiling"]
    assert told
    assert told[0]["operators"] == ["linear bf16"]
    assert "profiling would tell" in told[0]["text"]


def test_rows_near_the_best_that_nobody_draws_are_counted(tmp_path: Path) -> None:
    """Fourteen that are alike, of which twelve are asked."""
    asked = question(replace(SMALL, skus=("h100-sxm",), tp=(1,), max_num_seqs=(128,)))
    one = searching(asked, tmp_path / "search.jsonl", judged=False).run()
    many = replace(one, ranked=one.ranked[:1] * 14, outcomes=one.outcomes[:1] * 14)
    assert (len(many.contenders), many.undrawn) == (12, 14)
    drawn = {**many.ranked[0], "qps_draws": [1.0, 2.0]}
    assert many.with_contenders([drawn] * 12, ()).undrawn == 2


def test_every_capacity_is_an_interval(tmp_path: Path) -> None:
    """Far behind, the first row of each GPU is drawn; the others are as uncertain as their GPU's widest."""
    found = ranking(tmp_path)
    near, ranked = len(found.near), found.ranked
    assert len(found.contenders) == near
    first = {row["sku"]: index for index, row in reversed([*enumerate(ranked)]) if index}
    drawn = [index for index, row in enumerate(ranked) if row["qps_draws"]]
    assert drawn == sorted({*range(near), *(index for index in first.values() if index >= near)})
    assert len(ranked) > len(drawn) > near
    widest = {
        sku: max(row["qps_interval"][1] / row["qps"] for row in ranked if row["sku"] == sku)
        for sku in first
    }
    for index, row in enumerate(ranked):
        low, high = row["qps_interval"]
        assert low <= row["qps"] <= high
        if index not in drawn:
            assert high / row["qps"] == pytest.approx(widest[row["sku"]])
            assert row["interval_sources"] is row["rate_confidence"] is None


def test_every_interval_may_be_drawn(tmp_path: Path) -> None:
    """Common draws: what is drawn anyway stays as it is."""
    some, every = ranking(tmp_path), ranking(tmp_path, draw_all=True)
    assert all(row["qps_draws"] for row in every.ranked)
    assert every.undrawn == 0
    for one, other in zip(some.ranked, every.ranked, strict=True):
        if one["qps_draws"]:
            assert {**other, "at_confidence": one["at_confidence"]} == one


def test_a_guess_from_another_configuration_changes_no_capacity(tmp_path: Path) -> None:
    every = ranking(tmp_path)
    alone = ranking(tmp_path, axes=replace(SMALL, max_num_seqs=(128,)))
    assert [row["qps"] for row in alone.ranked] == [
        row["qps"] for row in every.ranked if row["max_num_seqs"] == 128
    ]


def test_what_only_a_datasheet_says_comes_after_what_was_measured(tmp_path: Path) -> None:
    asked, journal = question(), tmp_path / "search.jsonl"
    assert searching(asked, journal).run().ranked[0]["sku"] == "h100-sxm"
    loader = InventedTimes(datasheet=["h100-sxm"])
    rows = searching(asked, journal, loader=loader).run().ranked
    led = [row["sku"] for row in rows if row["grounded"]]
    assert "h100-sxm" not in led
    assert {row["sku"] for row in rows[len(led) :]} == {"h100-sxm"}


def stopped(tmp_path: Path, after: int) -> Ranking:
    """A search that Ctrl-C stops when it has so many outcomes."""

    def interrupt(done: int, total: int, doing: str) -> None:
        if done == after and doing == "searching":
            raise KeyboardInterrupt

    return searching(question(), tmp_path / "search.jsonl", progress=interrupt).run()


def test_a_stopped_search_shows_the_best_so_far_and_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = ranking(tmp_path)
    partial = stopped(tmp_path, 10)
    assert not partial.complete
    assert len(partial.ranked) + len(partial.infeasible) >= 10
    loader = InventedTimes()
    resumed = searching(question(), tmp_path / "search.jsonl", resume=True, loader=loader).run()
    assert resumed.ranked == whole.ranked
    assert resumed.infeasible == whole.infeasible
    assert "h100-sxm 1" not in loader.asked[:4]  # done before
    assert not (tmp_path / "search.jsonl").exists()


def test_a_line_that_was_cut_off_is_searched_again(tmp_path: Path) -> None:
    whole = ranking(tmp_path)
    stopped(tmp_path, 6)
    journal = tmp_path / "search.jsonl"
    journal.write_text(journal.read_text()[:-40])
    assert ranking(tmp_path, resume=True).ranked == whole.ranked


BESIDE = """
import sys, time
from pathlib import Path
from invented_search import question, searching

def report(done, total, doing):
    if done == 3:
        print("here", flush=True)
        time.sleep(60)

searching(question(), Path(sys.argv[1]), progress=report).run()
"""


def test_a_search_beside_another_leaves_a_file_of_its_own_to_resume(tmp_path: Path) -> None:
    whole = ranking(tmp_path)
    command = [sys.executable, "-c", BESIDE, str(tmp_path / "search.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"here\n"
            stopped(tmp_path, 5)
            assert (tmp_path / "search-2.jsonl").exists()
            assert ranking(tmp_path, resume=True).ranked == whole.ranked
            assert not (tmp_path / "search-2.jsonl").exists()
            assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 1 + 3
        finally:
            other.kill()


def test_a_trace_that_tells_more_is_another_question() -> None:
    """Who sent a request, its conversation, urgency and prefix decide what is found."""
    plain = workload(4)
    two, blocks = np.array([0, 0, 1, 1]), PrefixBlocks(16, np.arange(5), np.array([1, 1, 2, 3]))
    told = [replace(plain, **{name: two}) for name in ("client", "session", "priority")]
    told += [replace(plain, priority=1 - two), replace(plain, prefix=blocks)]
    keys = {question_key(("asked",), each) for each in (plain, *told)}
    assert len(keys) == 6


def test_there_must_be_a_stopped_search_of_the_same_question_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"search.jsonl: no search was stopped there"):
        ranking(tmp_path, resume=True)
    stopped(tmp_path, 3)
    with pytest.raises(UserError, match=r"is of another question, trace or data than this one"):
        ranking(tmp_path, resume=True, rate_per_s=21.0)


def test_what_is_in_flight_does_not_grow_with_the_space(tmp_path: Path) -> None:
    """Tables are asked for one placement after another, never ahead of the pool."""
    loader, seen = InventedTimes(), []

    def watch(done: int, total: int, doing: str) -> None:
        seen.append((len(loader.asked), done))

    axes = Axes(("h100-sxm",), (1, 2, 4, 8), (1, 2), (32,), (512,))
    searching(question(axes), tmp_path / "s", progress=watch, loader=loader).run()
    assert all(asked <= done + 3 for asked, done in seen[:8])


def test_a_race_spends_nothing_on_what_measurements_cannot_bear(tmp_path: Path) -> None:
    """The fastest GPU has a datasheet alone: all searched it before anything could be dropped."""
    every, race = (
        searching(
            question(),
            tmp_path / f"{best_only}.jsonl",
            workload(rate_per_s=60.0),
            loader=InventedTimes(datasheet=["h100-sxm"]),
            best_only=best_only,
        ).run()
        for best_only in (False, True)
    )
    assert race.ranked[0]["sku"] == every.ranked[0]["sku"] != "h100-sxm"
    assert race.ranked[0]["qps"] == every.ranked[0]["qps"]
    h100 = sum(row["sku"] == "h100-sxm" for row in every.ranked)
    assert h100 > 0
    assert race.beaten["one that measurements bear"] == h100
    assert all(row["sku"] != "h100-sxm" for row in race.ranked)


def test_a_race_without_any_measurement_has_the_best_of_all(tmp_path: Path) -> None:
    skus = SMALL.skus
    every, race = (
        searching(
            question(),
            tmp_path / f"{best_only}.jsonl",
            workload(rate_per_s=60.0),
            loader=InventedTimes(datasheet=skus),
            best_only=best_only,
        ).run()
        for best_only in (False, True)
    )
    assert race.ranked[0]["qps"] == every.ranked[0]["qps"]
    assert not any(row["grounded"] for row in every.ranked)
