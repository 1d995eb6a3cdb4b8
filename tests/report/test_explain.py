"""What one step aside changes, told from the ranking that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servecast.simulator.cli import cli
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
    assert len(json.loads(pair.output)["changes"]) == 1
    beyond = CliRunner().invoke(cli, ["explain", str(saved), "999"])
    assert (beyond.exit_code, "ranked configurations, not 999" in beyond.stderr) == (2, True)
