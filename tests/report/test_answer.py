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
    assert "l40s tp1 pp1" in text
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
