"""Targets of one class of requests in a search: whom they bind, what they change, where nobody is of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of
from invented_search import SMALL, question, searching, workload

from servecast.compiler.errors import UserError
from servecast.compiler.service import Service, Slo
from servecast.simulator.commands.search_job import JobOptions, run_job
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Engine, Fleet, simulate
from servecast.simulator.metrics.attained import bound
from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.metrics.metrics import samples
from servecast.simulator.search.capacity import Judge
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.rows import slo_text
from servecast.simulator.traffic.workload import Workload

REPOSITORY = Path(__file__).resolve().parents[2]


def of_two_classes(traffic: Workload) -> Workload:
    """Every fourth request is urgent."""
    return replace(traffic, priority=(np.arange(len(traffic)) % 4 > 0).astype(np.int64))


def test_a_target_of_a_class_is_written_as_it_is_read() -> None:
    for text in ("class 1: ttft p90 < 0.5 s", "tbt mean < 0.05 s"):
        assert slo_text(slo_of(text)) == text
    assert slo_of("class 2: e2e p99 < 3 s") == Slo("e2e", 99, 3.0, priority=2)


def test_a_class_of_its_own_target_is_left_out_of_that_for_all() -> None:
    traffic = replace(workload_of((0, 1, 1), (1, 1, 1), (2, 1, 1)), priority=np.array([0, 1, 2]))
    everyone, own = Slo("ttft", 90, 9.0), Slo("ttft", 90, 1.0, priority=1)
    other = Slo("e2e", 90, 9.0)
    slos = (everyone, own, other)
    assert bound(everyone, slos, traffic).tolist() == [True, False, True]
    assert bound(own, slos, traffic).tolist() == [False, True, False]
    assert bound(other, slos, traffic) is None


def test_what_a_class_waits_decides_between_orders() -> None:
    """A and B, of 4 tokens at a second each, arrive together; B is the urgent one.

    In order of arrival B has its token after 8 s, by priority after 4 s, and A after 8.
    """
    traffic = replace(workload_of((0, 4, 1), (0, 4, 1)), priority=np.array([1, 0]))
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=4, kv_blocks=20, block_tokens=4)
    urgent, others = Slo("ttft", 100, 5.0, priority=0), Slo("ttft", 100, 8.5)
    judge = Judge(traffic, (urgent, others), Engine())
    arrival, priority = (
        Fleet(tables_of(), limits, policy=policy) for policy in ("vllm_v1", "priority")
    )
    assert judge.broken(arrival) == (urgent,)
    assert judge.broken(priority) == ()
    # one limit for all: whoever is second breaks it, in any order
    together = Judge(traffic, (Slo("ttft", 100, 5.0),), Engine())
    assert together.broken(arrival)
    assert together.broken(priority)


@pytest.mark.parametrize("seed", range(100))
def test_gaps_of_some_requests_are_those_of_their_tokens(seed: int) -> None:
    """With preemptions and pipelines; what the fast sum counts, one by one."""
    traffic, fleet = random_case(seed)
    records = simulate(traffic, fleet)
    mine = np.random.default_rng(seed).random(len(traffic)) < 0.5
    each = [np.diff(times) for times in records.token_times()]
    finished = records.finished
    of_mine = [gaps for gaps, it in zip(each, mine & finished, strict=True) if it]
    expected = np.sort(np.concatenate([np.empty(0), *of_mine]))
    assert samples(records, "tbt", of=mine & finished).repeated() == pytest.approx(expected)


SLOS = (Slo("ttft", 90, 0.2, priority=0), Slo("ttft", 90, 4.0), Slo("tbt", 99, 0.2))


def ranking(tmp_path: Path, **means: Any) -> Ranking:
    skus, policies = ("h100-sxm", "a100-sxm-80gb"), ("vllm_v1", "priority")
    axes = replace(SMALL, skus=skus, policies=policies, max_num_seqs=(128,))
    asked = replace(question(axes), slos=SLOS)
    return searching(asked, tmp_path / "s.jsonl", of_two_classes(workload()), **means).run()


def test_the_order_that_serves_the_urgent_first_wins_and_is_the_best_alone(tmp_path: Path) -> None:
    every, race = ranking(tmp_path), ranking(tmp_path, best_only=True)
    first, winner = dict(every.ranked[0]), dict(race.ranked[0])
    assert first["policy"] == "priority"
    arrival = next(row for row in every.ranked if row["policy"] == "vllm_v1")
    assert arrival["qps_per_usd_hour"] < 0.9 * first["qps_per_usd_hour"]
    for row in (first, winner):
        row.pop("tied_with_best")
    assert winner == first
    assert arrival["binds"]["slo"] == "class 0: ttft p90 < 0.2 s"


@pytest.mark.parametrize(
    ("priorities", "message"),
    [
        (None, "targets of a class need each request's priority"),
        ([0, 1], r"no request is of class 3; there are 0, 1"),
    ],
)
def test_a_class_that_no_request_is_of_is_refused(
    priorities: list[int] | None, message: str
) -> None:
    traffic = replace(
        workload_of((0, 8, 2), (1, 8, 2)),
        priority=None if priorities is None else np.array(priorities),
    )
    options = JobOptions(
        spec=REPOSITORY / "spec" / "llama.llm",
        trace=traffic,
        asked=Service("asked", slos=(slo_of("class 3: ttft p90 < 1 s"),)),
    )
    with pytest.raises(UserError, match=message):
        run_job(options)
