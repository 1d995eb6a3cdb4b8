"""The terminal's answer: fits where it is read, and says what the JSON says."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from servecast.simulator.commands.search_answer import show


def shown(result: dict[str, Any], width: int) -> str:
    text = io.StringIO()
    show(result, Console(file=text, width=width, no_color=True))
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(
    result: dict[str, Any], width: int
) -> None:
    text = shown(result, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert f"{result['best']['qps']:.2f}" in text
    assert f"{result['best']['qps_per_usd_hour']:.3f}" in text
    assert result["best"]["sku"] in text


def test_a_wide_terminal_also_says_what_binds_each_configuration(result: dict[str, Any]) -> None:
    assert "binds" not in shown(result, 80)
    assert "binds" in shown(result, 140)


def test_what_cannot_serve_is_listed_once_a_placement_with_its_reason(
    result: dict[str, Any],
) -> None:
    miss = {"sku": "l40s", "tp": 1, "pp": 1, "max_num_seqs": 64, "max_batched_tokens": 512}
    result["infeasible"] = [
        {**miss, "reason": "too small"},
        {**miss, "reason": "too small as well"},
    ]
    text = shown(result, 120)
    assert "l40s, TP 1, PP 1" in text
    assert "too small (and 1 more settings)" in text


@pytest.mark.parametrize(("confidence", "words"), [(0.9, "9 times in 10"), (0.99, "99 in 100")])
def test_an_interval_is_read_at_the_confidence_that_was_asked_for(
    result: dict[str, Any], confidence: float, words: str
) -> None:
    result["question"]["confidence"] = confidence
    result["best"]["qps_interval"] = [20.0, 24.0]
    assert f"(20.0 to 24.0 under like traffic, {words})" in shown(result, 200)


def test_no_answer_says_which_targets_and_why(result: dict[str, Any]) -> None:
    result["best"], result["ranked"] = None, []
    result["infeasible"] = [
        {
            "sku": "l40s",
            "tp": 1,
            "pp": 1,
            "max_num_seqs": 64,
            "max_batched_tokens": 512,
            "reason": "slow",
        }
    ]
    text = shown(result, 100)
    assert text.startswith("No configuration serves")
    assert "slow" in text


def test_a_configuration_that_no_measurement_bears_is_marked_in_its_line(
    result: dict[str, Any],
) -> None:
    assert "~ " not in shown(result, 80).split("SKU", 1)[1].split("…")[0]
    datasheet = {"imported": 0.1, "analytical": 0.9}
    result["best"]["time_by_source"] = result["ranked"][0]["time_by_source"] = datasheet
    text = shown(result, 80)
    assert (
        f"Only 10% of its predicted time rests on measurements of {result['best']['sku']}" in text
    )
    first = text.split("SKU", 1)[1].splitlines()[1]
    assert first.split()[1] == "~"


def test_a_tie_is_marked_where_two_configurations_cannot_be_told_apart(
    result: dict[str, Any],
) -> None:
    for row in result["ranked"]:
        row["tied_with_best"] = row in result["ranked"][:2]
    text = shown(result, 120)
    assert "= not told apart from the best." in text
    assert sum(line.split()[1:2] == ["="] for line in text.splitlines()) == 2


def test_a_best_that_ties_with_nobody_carries_no_mark(result: dict[str, Any]) -> None:
    for row in result["ranked"]:
        row["tied_with_best"] = row is result["ranked"][0]
    text = shown(result, 120)
    assert "not told apart" not in text
    assert not any(line.split()[1:2] == ["="] for line in text.splitlines())


def test_what_else_configurations_differ_in_stands_below_by_their_numbers(
    result: dict[str, Any],
) -> None:
    """Without it two rows of one GPU and limits would look alike."""
    assert " precision" not in shown(result, 80)
    for number, row in enumerate(result["ranked"]):
        row |= {"precision": ("bf16", "fp8")[number % 2], "ep": 1 + 7 * (number % 2), "dp": 1}
    lines = shown(result, 80).splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split() == ["#", "precision", "ep"])
    assert [line.split() for line in lines[heading + 1 : heading + 3]] == [
        ["1", "bf16", "1"],
        ["2", "fp8", "8"],
    ]
    assert any(line.split()[:2] == ["2", result["ranked"][1]["sku"]] for line in lines)


def test_the_ranking_shows_the_figure_that_it_is_by(result: dict[str, Any]) -> None:
    result["question"]["objective"] = {
        "key": "watts_at_trace_rate",
        "better": "lower",
        "says": "least power",
    }
    for row in result["ranked"]:
        row["watts_at_trace_rate"] = 512.4
    lines = shown(result, 80).splitlines()
    heading = next(line for line in lines if line.startswith("SKU"))
    assert "W" in heading.split()
    assert "QPS/$h" not in heading
    assert any(" 512 " in line for line in lines)


def test_a_replica_has_the_gpus_of_all_its_ranks_and_says_what_is_not_usual(
    result: dict[str, Any],
) -> None:
    result["best"] |= {"tp": 2, "pp": 1, "dp": 4, "ep": 8, "replicas": 1, "precision": "fp8"}
    result["best"] |= {"policy": "sarathi", "router": "least_outstanding"}
    text = " ".join(shown(result, 200).split())
    assert "1 replica of 8 GPUs (TP 2, PP 1, EP 8, DP 4), at most" in text
    assert "tokens a step of each rank; precision fp8; policy sarathi; $" in text


def test_a_tie_that_costs_less_an_hour_is_named_beside_the_best(result: dict[str, Any]) -> None:
    """Five GPUs may give most requests per dollar where two carry the trace."""
    best, other, third = result["best"], *result["ranked"][1:3]
    best["usd_per_hour"], other["usd_per_hour"], third["usd_per_hour"] = 14.95, 5.98, 4.0
    assert "costs" not in shown(result, 200)
    other |= {"tied_with_best": True, "gpus": 2, "sku": "h100-sxm"}
    said = "#2 is not told apart from it and costs $5.98 an hour (2 × h100-sxm)."
    assert said in shown(result, 200)


def test_every_capacity_has_how_far_it_may_be_off(result: dict[str, Any]) -> None:
    for row in result["ranked"]:
        row["qps_interval"] = [0.8 * row["qps"], 1.25 * row["qps"]]
    result["ranked"][0]["qps_draws"] = [result["best"]["qps"]] * 6
    lines = shown(result, 80).splitlines()
    assert sum(" 25% " in line for line in lines) == 1
    assert sum("≤25%" in line for line in lines) == 11


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_pairs_of_long_names_cut_no_figure(result: dict[str, Any], width: int) -> None:
    """Two kinds of GPUs, ten replicas and more, and another objective's figure: latencies yield last."""
    result["question"]["objective"] = {"key": "goodput_per_usd_hour", "says": "most in time"}
    for row in result["ranked"]:
        row |= {"goodput_per_usd_hour": 5.123, "mode": "aggregated", "qps_interval": [1.0, 9999.0]}
    pair = result["ranked"][1]
    part = {key: pair[key] for key in ("sku", "tp", "pp")} | {"replicas": 12}
    pair |= {"sku": "a100-sxm-80gb + h100-sxm", "mode": "disaggregated", "qps": 1234.5}
    pair |= {"prefill": part | {"sku": "a100-sxm-80gb"}, "decode": part}
    lines = shown(result, width).splitlines()
    assert max(map(len, lines)) <= width
    line = next(line for line in lines if "12P12D" in line)
    assert {"1234.50", "5.123"} <= set(line.split())
    assert "…" not in line
    assert ("apart" in line) == (width == 80)
    assert any("prefill 12 × a100-sxm-80gb TP" in line for line in lines)
