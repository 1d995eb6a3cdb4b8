"""How surely the replicas of an answer carry the trace's rate, and how many do as surely as is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invented_search import SMALL, question, searching, workload

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.service import Slo
from servecast.simulator.report.headline import carrying
from servecast.simulator.search.market import Market, priced
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.sizing import Growth
from servecast.simulator.search.worker import Worker

ONE = replace(SMALL, skus=("l40s",), tp=(1,), max_num_seqs=(128,), max_batched_tokens=(2048,))
TWO = replace(ONE, skus=("l40s", "h100-sxm"))
APART = replace(
    ONE, skus=(), modes=("disaggregated",), prefill_skus=("h100-sxm",), decode_skus=("h100-sxm",)
)
TARGETS = (Slo("ttft", 90, 0.3), Slo("tbt", 99, 0.1))


def found(tmp_path: Path, rate_per_s: float, **asked: Any) -> Ranking:
    traffic = workload(rate_per_s=rate_per_s)
    return searching(question(**asked), tmp_path / "search.jsonl", traffic).run()


def figures(size: dict[str, Any] | None) -> tuple[int, Any]:
    assert size is not None
    return size["replicas"], pytest.approx(size["usd_per_hour"])


def test_what_barely_carries_a_rate_says_so_and_how_many_are_sure_of_it(tmp_path: Path) -> None:
    """Four replicas are full at 64 of 60 req/s, and times are drawn a tenth off: 90 % takes 74."""
    best = found(tmp_path, 60.0, axes=ONE, objective="cost").ranked[0]
    assert (best["replicas"], figures(best["at_confidence"])) == (4, (5, 4.95))
    assert 0.5 < best["rate_confidence"] < 0.9


def test_what_carries_it_with_room_needs_no_more(tmp_path: Path) -> None:
    best = found(tmp_path, 20.0, axes=replace(ONE, skus=("h100-sxm",)), confidence=0.8).ranked[0]
    assert figures(best["at_confidence"]) == (best["replicas"], best["usd_per_hour"])
    assert best["rate_confidence"] > 0.8


def test_too_few_gpus_to_be_sure_are_said(tmp_path: Path) -> None:
    best = found(tmp_path, 60.0, axes=ONE, objective="cost", market=Market(4)).ranked[0]
    assert (best["replicas"], best["at_confidence"]) == (4, None)


def test_a_dearer_gpu_that_is_sure_is_found_behind_the_contenders(tmp_path: Path) -> None:
    """Two H100s cost 21 % more than four L40S, and less than the five that are as sure of the rate."""
    skus = priced(shipped_skus(), {"h100-sxm": 2.4})
    first, second = found(tmp_path, 60.0, axes=TWO, objective="cost", skus=skus).ranked
    assert (first["sku"], figures(first["at_confidence"])) == ("l40s", (5, 4.95))
    assert (second["sku"], figures(second["at_confidence"])) == ("h100-sxm", (2, 4.8))
    assert not second["tied_with_best"]


def test_a_pair_grows_where_it_is_short() -> None:
    """By hand, prefill carrying 3 a replica and decode 8: of 2 and 1 prefill is short, of 3 and 1 decode."""
    growth = Growth(room=(3, 2, 1), dp=(1, 1), alone_per_s=(3.0, 8.0))
    assert growth.next(2, 1) == (3, 1)
    assert growth.next(3, 1) is None
    assert Growth((3, 2, 2), (1, 1), (3.0, 8.0)).next(3, 1) == (3, 2)


def test_roles_apart_are_sized_together(tmp_path: Path) -> None:
    asked = searching(
        question(APART, "cost", slos=TARGETS), tmp_path / "s", workload(rate_per_s=150.0)
    )
    ranking = asked.run()
    row = ranking.ranked[0]
    size = row["at_confidence"]
    assert size["prefill"] >= row["prefill"]["replicas"]
    assert size["decode"] >= row["decode"]["replicas"]
    assert size["replicas"] == size["prefill"] + size["decode"]
    pair = ranking.outcomes[0].serving(asked.tables_for, asked.shape_of)
    grown = replace(
        pair,
        prefill=replace(pair.prefill, replicas=size["prefill"]),
        decode=replace(pair.decode, replicas=size["decode"]),
    )
    assert Worker(asked.demand).searched.broken(grown, 150.0) == ()


def answer(*rows: dict[str, Any], better: str = "lower") -> dict[str, Any]:
    key = "usd_per_hour" if better == "lower" else "qps_per_usd_hour"
    return {
        "best": rows[0],
        "ranked": list(rows),
        "question": {"confidence": 0.9, "objective": {"better": better, "key": key}},
        "workload": {"rate_per_s": 60.0},
    }


def sized(replicas: int, enough: int | None, sure: float, price: float = 1.0) -> dict[str, Any]:
    size = {"replicas": enough, "gpus": enough, "usd_per_hour": enough and enough * price}
    return {
        "sku": "l40s" if price == 1 else "h100-sxm",
        "tp": 1,
        "pp": 1,
        "replicas": replicas,
        "rate_confidence": sure,
        "at_confidence": size if enough else None,
    }


def test_an_answer_says_in_words_how_sure_its_replicas_are() -> None:
    sure, short, none = sized(4, 4, 0.999), sized(4, 5, 0.69), sized(4, None, 0.6)
    said = "4 replicas carry 60.0 requests per second with"
    assert carrying(answer(sure)) == f"{said} over 99% confidence."
    assert carrying(answer(sure, better="higher")) is None
    more = "90% takes 5 replicas (5 GPUs, $5.00 an hour)."
    assert carrying(answer(short)) == f"{said} 69% confidence; {more}"
    assert carrying(answer(none)) == (
        f"{said} 60% confidence; as many as there are GPUs for have less than 90%."
    )
    dearer = sized(2, 2, 0.95, price=2.4)
    other = "The least for that is #2 (h100-sxm TP 1 PP 1): 2 replicas (2 GPUs, $4.80 an hour)."
    assert carrying(answer(short, dearer)) == f"{said} 69% confidence; {more} {other}"
    assert carrying(answer({**sure, "rate_confidence": None})) is None
