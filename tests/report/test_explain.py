"""What one step aside changes, told from the ranking that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from servecast.simulator.cli import cli
from servecast.simulator.commands.explain_job import explained
from servecast.simulator.commands.explain_show import show_explained
from servecast.simulator.search.explain import change, refused_aside, steps_aside


def test_a_change_worked_by_hand(result: dict[str, Any]) -> None:
    old = result["ranked"][0]
    new = json.loads(json.dumps(old))
    new["tp"], new["qps"] = 2 * old["tp"], 1.5 * old["qps"]
    new["metrics"]["tbt_s"]["p99"] = old["metrics"]["tbt_s"]["p99"] - 0.031
    found = change(old, new)
    assert found.label == f"tp {old['tp']}→{2 * old['tp']}"
    assert found.qps == pytest.approx(0.5)
    assert found.tbt_p99_s == pytest.approx(-0.031)
    assert found.qps_per_usd == 0


def test_steps_go_to_the_next_value_of_one_axis(result: dict[str, Any]) -> None:
    row = next(r for r in result["ranked"] if r["max_batched_tokens"] == 2048 and r["tp"] == 2)
    labels = {each.label for each in steps_aside(result, row)}
    assert {
        "tp 2→1",
        "tp 2→4",
        "max_batched_tokens 2048→512",
        "max_batched_tokens 2048→8192",
    } <= labels
    assert all(label.count("→") == 1 for label in labels)


def test_names_of_an_axis_have_no_order_and_all_are_told(result: dict[str, Any]) -> None:
    row = result["ranked"][0]
    row["policy"] = "vllm_v1"
    for policy in ("shortest_prompt_first", "priority"):
        result["ranked"].append({**row, "policy": policy})
    labels = {each.label for each in steps_aside(result, row)}
    assert {"policy vllm_v1→shortest_prompt_first", "policy vllm_v1→priority"} <= labels


def test_there_and_back_is_no_change(result: dict[str, Any]) -> None:
    one, two = result["ranked"][:2]
    there, back = change(one, two), change(two, one)
    assert (1 + there.qps) * (1 + back.qps) == pytest.approx(1)
    assert there.ttft_p90_s == -back.ttft_p90_s


def test_a_refusal_one_step_aside_is_told_with_its_reason(result: dict[str, Any]) -> None:
    row = next(r for r in result["ranked"] if r["sku"] == "l40s" and r["tp"] == 4)
    (what, reason), *_ = refused_aside(result, row)
    assert what == "tp 4→8"
    assert "even when idle" in reason


def test_the_command_explains_the_best_and_a_pair(result: dict[str, Any], tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    best = CliRunner().invoke(cli, ["explain", str(saved)])
    assert best.exit_code == 0
    assert "one step aside" in best.output
    pair = CliRunner().invoke(cli, ["explain", str(saved), "1", "2", "--json"])
    told = json.loads(pair.output)
    assert (len(told["changes"]), [each["rank"] for each in told["steps_aside"]]) == (1, [1, 2])
    beyond = CliRunner().invoke(cli, ["explain", str(saved), "999"])
    assert (beyond.exit_code, "ranked configurations, not 999" in beyond.stderr) == (2, True)


def apart(row: dict[str, Any], prefill_tp: int, decode_tp: int) -> dict[str, Any]:
    roles = (("prefill", prefill_tp), ("decode", decode_tp))
    return {**row, "mode": "disaggregated", **{role: {**row, "tp": tp} for role, tp in roles}}


def test_the_resource_that_most_of_the_work_is_bound_by_is_named(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "rank": 1,
        "trace": "chat",
        "gpu_time": {"decode_weights": 0.4, "prefill": 0.35, "idle": 0.25},
        "request_time": {"decode": 1.0},
        "resource": "memory bandwidth (weights)",
        "shadow_prices": [],
    }
    every = {**explained(result, "here", [1]), "explanations": [told], "unexplained": None}
    show_explained(result, every, Console(width=200))
    said = (
        "GPU time: 40% decode weights, 35% prefill, 25% idle; most of the work is memory bandwidth"
    )
    assert said in capsys.readouterr().out


def test_a_step_aside_of_roles_apart_is_one_of_either_role(result: dict[str, Any]) -> None:
    row = result["ranked"][0]
    result["ranked"] = [row, *(apart(row, p, d) for p, d in ((1, 1), (2, 1), (1, 4), (2, 4)))]
    labels = {each.label for each in steps_aside(result, result["ranked"][1])}
    assert labels == {"prefill tp 1→2", "decode tp 1→4"}
    together = {**row, "mode": "aggregated"}
    assert change(together, result["ranked"][1]).label == "mode aggregated→disaggregated"
    other = {**result["ranked"][1], "sku": "h100-sxm + l40s"}
    assert change(together, other).label == (
        f"sku {together['sku']}→h100-sxm + l40s, mode aggregated→disaggregated"
    )


def test_what_the_search_s_command_cannot_tell_any_more_is_said_to_be_so(
    result: dict[str, Any], tmp_path: Path
) -> None:
    saved = tmp_path / "results.json"
    for command, why in (
        (["somewhere"], "was not made by compile-and-search"),
        (["compile-and-search", "gone.llm", "--trace", "gone.csv"], "gone.llm"),
        (["compile-and-search", "--frobnicate"], "the search's command is none any more: No such"),
    ):
        result["provenance"]["command"] = command
        saved.write_text(json.dumps(result))
        told = json.loads(CliRunner().invoke(cli, ["explain", str(saved), "2", "--json"]).output)
        assert why in told["unexplained"]
        shown = CliRunner().invoke(cli, ["explain", str(saved), "2"])
        assert (shown.exit_code, "Where time goes is not told" in shown.output) == (0, True)


def test_the_best_is_explained_where_others_cannot_be(
    result: dict[str, Any], tmp_path: Path
) -> None:
    """Its explanation stands in the answer; that of any other takes the search's files."""
    saved = tmp_path / "results.json"
    result["provenance"]["command"] = ["compile-and-search", "gone.llm", "--trace", "gone.csv"]
    result["explanation"] = {
        "gpu_time": {"prefill": 1.0},
        "request_time": {"decode": 1.0},
        "resource": "compute",
        "shadow_prices": [],
    }
    saved.write_text(json.dumps(result))
    for ranks in (["1", "2"], ["2", "1"]):
        run = CliRunner().invoke(cli, ["explain", str(saved), *ranks, "--json"])
        told = json.loads(run.output)
        assert [each["rank"] for each in told["explanations"]] == [1]
        assert "gone.llm" in told["unexplained"]
