"""Prefill and decode on GPUs of their own: which pairs there are, and what the search finds of them."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from invented_search import SMALL, InventedTimes, question, searching, workload

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.service import Service, Slo
from servecast.simulator.engine.disaggregation import KvLink
from servecast.simulator.metrics.energy import energy
from servecast.simulator.search.dry_run import space_json
from servecast.simulator.search.market import Market, at_prices
from servecast.simulator.search.outcome import PairOutcome
from servecast.simulator.search.pair_worker import Alone, PairTask, Role
from servecast.simulator.search.pairs import role_axes
from servecast.simulator.search.question import axes_of
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.servable import servable_pairs
from servecast.simulator.search.serving import pools, summary, value
from servecast.simulator.search.space import Axes
from servecast.simulator.search.task import Setting, Shape
from servecast.simulator.search.worker import Worker

APART = replace(
    SMALL,
    skus=("h100-sxm",),
    modes=("disaggregated",),
    prefill_skus=("h100-sxm", "a100-sxm-80gb"),
    decode_skus=("h100-sxm", "l40s"),
)
TARGETS = (Slo("ttft", 90, 0.3), Slo("tbt", 99, 0.1))
"""Tight enough for a thousand requests to be no burst that ends before it is late."""
BOTH = replace(APART, modes=("aggregated", "disaggregated"))


def ranking(tmp_path: Path, axes: Axes = APART, **asked: Any) -> Ranking:
    means = {name: asked.pop(name) for name in ("best_only", "resume") if name in asked}
    traffic = workload(rate_per_s=asked.pop("rate_per_s", 20.0))
    asked = {"slos": TARGETS, **asked}
    return searching(question(axes, **asked), tmp_path / "search.jsonl", traffic, **means).run()


def test_every_pair_of_placements_is_kept_or_refused() -> None:
    asked = question(replace(BOTH, tp=(1, 3)), model="llama-3.1-8b")
    apart, space = asked.pairings(800), asked.space(800)
    shown = space_json(asked, space, apart)
    assert len(apart) + sum(apart.refused.values()) == asked.axes.num_pairs == 16
    assert apart.refused == {"the model's shape (prefill)": 8, "the model's shape (decode)": 4}
    assert shown["to_search"] + sum(shown["refused"].values()) == shown["configurations"]
    assert shown["sizes"]["prefill_skus"] == shown["sizes"]["modes"] == 2


def test_two_roles_need_gpus_for_both() -> None:
    found = question(replace(APART, tp=(2,)), market=Market(3)).pairings(800)
    assert (len(found), dict(found.refused)) == (0, {"the GPU limit (both roles)": 4})


def test_a_placement_that_cannot_take_a_role_is_told_with_the_role_and_why() -> None:
    """Of 8 GPUs: a role of tp 16 needs more, and two of tp 8 do together."""
    axes = replace(APART, tp=(8, 16), prefill_skus=("h100-sxm",), decode_skus=("h100-sxm",))
    reasons = [miss.reason for miss in question(axes, market=Market(8)).pairings(1000).infeasible]
    assert reasons[0].startswith("for prefill apart: needs 16 GPUs, and the limit is 8")
    assert reasons[1].startswith("for decode apart: needs 16 GPUs, and the limit is 8")
    room = "for decode apart beside h100-sxm tp=8 pp=1 for prefill: more than 8 GPUs"
    assert reasons[2:] == [room]


def test_policies_that_cannot_go_on_from_a_prefill_made_elsewhere_are_refused() -> None:
    """A class makes its own batches, of prompts that it prefills itself; orders and functions do not."""
    axes = replace(APART, policies=("vllm_v1", "vllm_v0", "shortest_prompt_first"))
    found = question(axes).pairings(800)
    kept = servable_pairs(found)
    assert {pairing.policy for pairing in kept.kept} == {"vllm_v1", "shortest_prompt_first"}
    assert kept.refused["the policy"] == len(found) - len(kept) == len(found) / 3
    reasons = {miss.reason for miss in kept.infeasible if miss.constraint == "the policy"}
    assert reasons == {"for decode apart: policy 'vllm_v0' prefills every prompt itself"}


def test_the_room_beside_a_role_shrinks_by_what_it_takes() -> None:
    h100, l40s = shipped_skus()["h100-sxm"], shipped_skus()["l40s"]
    assert Market(8).room((h100, 2), (h100, 1)) == (6, 4, 2)
    assert Market(8, stock={"h100-sxm": 4}).room((h100, 2), (h100, 1)) == (2,)
    assert Market(8, stock={"h100-sxm": 4}).room((h100, 2), (l40s, 1)) == (6, 4)
    assert Market(32, whole_nodes=True).room((h100, 2), (h100, 4))[:5] == (6, 6, 6, 6, 4)


def test_prefill_pools_try_token_budgets_and_decode_pools_batch_limits() -> None:
    axes = replace(APART, max_num_seqs=(64, 256), max_batched_tokens=(128, 512, 2048))
    prefill, decode = role_axes(axes, "prefill"), role_axes(axes, "decode")
    assert (prefill.max_num_seqs, prefill.max_batched_tokens) == ((128,), (128, 512, 2048))
    assert (decode.max_num_seqs, decode.max_batched_tokens) == ((64, 256), (512,))


def test_a_service_says_the_modes_and_the_gpus_of_each_role() -> None:
    service = Service("s", modes=("disaggregated",), decode_skus=("l40s",))
    axes = axes_of(service, Service("command line"), ("h100-sxm",))
    assert (axes.prefill_skus, axes.decode_skus) == (("h100-sxm",), ("l40s",))
    with pytest.raises(UserError, match=r"no serving mode 'disagregated' \(did you mean 'disagg"):
        axes_of(None, Service("command line", modes=("disagregated",)), ("h100-sxm",))


def test_prices_of_a_kind_must_be_declared_for_what_is_searched() -> None:
    with pytest.raises(UserError, match=r"^h100-sxm gives no spot price; say it with --price h100"):
        at_prices(shipped_skus(), "spot", ["h100-sxm"])
    assert at_prices(shipped_skus(), "spot", []) == shipped_skus()
    with pytest.raises(UserError, match=r"no kind of price 'spt' \(did you mean 'spot'\?\)"):
        at_prices(shipped_skus(), "spt", [])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Ranking:
    return ranking(tmp_path_factory.mktemp("apart"), BOTH)


def test_rows_of_both_modes_are_ranked_together(found: Ranking) -> None:
    values = [row["qps_per_usd_hour"] for row in found.ranked]
    assert values == sorted(values, reverse=True)
    assert {row["mode"] for row in found.ranked} == {"aggregated", "disaggregated"}


def test_a_row_holds_the_sum_of_its_roles(found: Ranking) -> None:
    row = next(row for row in found.ranked if row["mode"] == "disaggregated")
    parts = row["prefill"], row["decode"]
    for name in ("gpus", "usd_per_hour", "replicas", "watts"):
        assert row[name] == pytest.approx(sum(part[name] for part in parts))
    assert row["max_num_seqs"] == row["decode"]["max_num_seqs"]
    assert row["binds"]["detail"].startswith(f"of the {row['binds']['role']} replicas: ")


def test_a_capacity_apart_keeps_the_targets_and_a_little_more_does_not(found: Ranking) -> None:
    index = next(i for i, row in enumerate(found.ranked) if row["mode"] == "disaggregated")
    outcome, row = found.outcomes[index], found.ranked[index]
    asked = searching(question(BOTH, slos=TARGETS), Path("unused"))
    serving = outcome.serving(asked.tables_for, asked.shape_of)
    worker = Worker(asked.demand)
    assert worker.searched.broken(serving, row["qps"]) == ()
    assert worker.searched.broken(serving, 1.03 * row["qps"]) != ()
    at = worker.searched.records(serving, row["qps"])
    assert value(at, "ttft", 90) == pytest.approx(row["metrics"]["ttft_s"]["p90"])


def test_decode_replicas_are_no_fewer_than_keep_their_queue_short(tmp_path: Path) -> None:
    """A wait between first and second token is one gap of many: no target on gaps would show it."""
    axes = replace(APART, prefill_skus=("h100-sxm",), decode_skus=("l40s",), max_num_seqs=(4,))
    row = ranking(tmp_path, axes, slos=(Slo("ttft", 90, 0.3),), rate_per_s=8.0).ranked[0]
    assert row["decode"]["replicas"] > 1
    assert row["binds"]["role"] == "decode"
    assert row["metrics"]["queue_delay_s"]["p99"] < 5


def test_power_is_that_of_the_run_at_capacity(found: Ranking) -> None:
    """Of one pool by the formula that a simulated run has; of roles apart each over the whole run."""
    asked = searching(question(BOTH, slos=TARGETS), Path("unused"))
    for outcome, row in list(zip(found.outcomes, found.ranked, strict=True))[::4]:
        serving = outcome.serving(asked.tables_for, asked.shape_of)
        run = Worker(asked.demand).searched.records(serving, row["qps"])
        duration_s = summary(run).duration_s
        joules = 0.0
        for (_, records), place in zip(pools(serving, run), outcome.placements, strict=True):
            used = energy(place.sharded, place.sku, records, duration_s)
            joules += used.joules if used else nan
        assert row["watts"] == pytest.approx(joules / duration_s)
        assert row["watts_at_trace_rate"] is None


@pytest.mark.parametrize("objective", ["qps_per_usd", "cost", "goodput", "energy"])
def test_the_best_alone_is_the_best_of_all(objective: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"objective": objective, "rate_per_s": 60.0}
    every = ranking(tmp_path, BOTH, **asked)
    race = ranking(tmp_path, BOTH, **asked, best_only=True)
    first, winner = dict(every.ranked[0]), dict(race.ranked[0])
    for row in (first, winner):
        row.pop("tied_with_best")
    assert winner == first


def test_fewer_replicas_do_not_carry_the_trace(tmp_path: Path) -> None:
    """The objective is the cost, so that nothing is balanced."""
    asked = searching(
        question(APART, "cost", slos=TARGETS), tmp_path / "search.jsonl", workload(rate_per_s=150.0)
    )
    best = next(each for each in asked.run().outcomes if isinstance(each, PairOutcome))
    serving = best.serving(asked.tables_for, asked.shape_of)
    assert serving.prefill.replicas + serving.decode.replicas > 2
    trace = Worker(asked.demand).trace
    assert trace.broken(serving) == ()
    for role in ("prefill", "decode"):
        fleet = getattr(serving, role)
        if fleet.replicas > 1:
            fewer = replace(fleet, replicas=fleet.replicas - 1)
            assert trace.broken(replace(serving, **{role: fewer})) != ()


def test_a_stopped_search_goes_on_among_the_pairs(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, doing: str) -> None:
        if done == 3 and doing == "searching":
            raise KeyboardInterrupt

    whole = ranking(tmp_path)
    journal = tmp_path / "search.jsonl"
    partial = searching(question(APART, slos=TARGETS), journal, progress=interrupt).run()
    assert not partial.complete
    resumed = searching(
        question(APART, slos=TARGETS), journal, resume=True, loader=InventedTimes()
    ).run()
    assert resumed.ranked == whole.ranked


def test_a_role_that_no_target_can_be_kept_on_says_by_how_far(tmp_path: Path) -> None:
    found = ranking(tmp_path, slos=(Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.001)))
    assert not found.ranked
    assert "even when idle: tbt p99 < 0.001 s comes to" in found.infeasible[0]["reason"]


def test_replicas_are_balanced_by_what_each_role_carries_alone() -> None:
    """Worked by hand: two prefill replicas of 3 req/s carry what one decode replica of 6 does, and twice as
    many of both are no better."""
    role = Shape(1, (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0))
    prefill, decode = Alone(0, NO_SETTING, 3.0, inf), Alone(0, NO_SETTING, 6.0, inf)
    task = PairTask(Role(role, prefill), Role(role, decode), NO_LINK, (3, 3, 3, 2), balanced=True)
    assert task.likely_per_s((2, 1)) == 6.0
    assert task.balanced_from((1, 1)) == (2, 1)
    assert task.balanced_from((3, 1)) == (4, 2)
    assert task.usd_per_hour((2, 1)) == 3.0


NO_LINK = KvLink(1.0, inf)
NO_SETTING = Setting(None, "vllm_v1", "round_robin")  # type: ignore[arg-type]  # no fleet is made
