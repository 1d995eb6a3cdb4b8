"""Why nothing can serve: the constraint that empties a space, or the nearest miss and how far off it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invented_search import SMALL, question, searching, workload

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.service import Slo
from servecast.simulator.search.market import Market
from servecast.simulator.search.plan import nothing_fits
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.space import Axes

H100 = replace(SMALL, skus=("h100-sxm",))
APART = replace(
    H100, modes=("disaggregated",), prefill_skus=("h100-sxm",), decode_skus=("l40s",), tp=(1, 2)
)


def refused(axes: Axes, market: Market) -> str:
    asked = question(axes, market=market)
    return nothing_fits(asked, asked.space(1000), asked.pairings(1000))


@pytest.mark.parametrize(
    ("axes", "market", "says"),
    [
        (replace(H100, tp=(4,)), Market(2), "4 by the GPU limit. h100-sxm tp=4 pp=1: needs 4 GPUs, and"),
        (H100, Market(8, {"h100-sxm": 4}, whole_nodes=True), "8 by whole nodes. h100-sxm tp=1"),
        (replace(H100, tp=(2,)), Market(8, {"h100-sxm": 1}), "tp=2 pp=1: needs 2 GPUs, of 1 GPU in stock"),
        (APART, Market(1), "2 by the GPU limit (prefill)"),
    ],
)  # fmt: skip
def test_an_empty_space_names_what_empties_it_and_counts_configurations(
    axes: Axes, market: Market, says: str
) -> None:
    assert says in refused(axes, market)


def test_a_node_too_large_for_the_limit_says_so() -> None:
    why = Market(4, whole_nodes=True).refusal(shipped_skus()["h100-sxm"], 1)
    assert why == ("whole nodes", "a node has 8 GPUs, and the limit is 4 GPUs, by nodes of 8")


def test_of_roles_apart_the_one_without_stock_is_named_once() -> None:
    """One H100 is no prefill replica of two, whatever decodes beside it."""
    found = question(APART, market=Market(16, {"h100-sxm": 1})).pairings(1000)
    assert found.refused == {"the stock (prefill)": 2}
    (miss,) = found.infeasible
    assert (miss.sku, miss.tp, miss.reason) == (
        "h100-sxm", 2, "for prefill apart: needs 2 GPUs, of 1 GPU in stock",
    )  # fmt: skip
    alike = replace(APART, decode_skus=("h100-sxm",), tp=(1,))
    (miss,) = question(alike, market=Market(16, {"h100-sxm": 1})).pairings(1000).infeasible
    assert (miss.constraint, miss.reason.endswith("more than 1 GPU in stock")) == (
        "the stock",
        True,
    )


def missed(tmp_path: Path, rate_per_s: float, axes: Axes, **asked: Any) -> Ranking:
    found = searching(
        question(axes, **asked), tmp_path / "s", workload(rate_per_s=rate_per_s)
    ).run()
    assert not found.ranked
    return found


def test_the_nearest_miss_is_first_with_its_distance(tmp_path: Path) -> None:
    """What carries most of the rate; behind it what keeps the targets at none, by how far it is off."""
    found = missed(tmp_path, 400.0, SMALL, market=Market(1), slos=(Slo("tbt", 99, 0.013),))
    reasons = [miss["reason"] for miss in found.infeasible]
    ends = ("times too little", "times the target)", "the limit is 1")
    kinds = [next(i for i, end in enumerate(ends) if end in reason) for reason in reasons]
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}
    short = [
        float(reason.split()[-4].replace(",", "")) for reason in reasons if reason.endswith(ends[0])
    ]
    assert short == sorted(short)
    assert 1 < short[0] < short[-1]


def test_too_few_gpus_of_roles_apart_say_how_much_they_carry(tmp_path: Path) -> None:
    slos = (Slo("ttft", 90, 2.0), Slo("tpot", 90, 0.2))
    found = missed(tmp_path, 2000.0, replace(APART, tp=(1,)), market=Market(3), slos=slos)
    assert "times too little" in found.infeasible[0]["reason"]
    assert "all carry about" in found.infeasible[0]["reason"]
