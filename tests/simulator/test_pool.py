"""Worker processes: large demands reach them, and one that dies ends the search with a sentence."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from invented_search import die, num_requests, question, searching, workload

from servecast.simulator.search.pool import LostWorkerError, Processes
from servecast.simulator.search.space import Axes
from servecast.simulator.search.task import Demand

AXES = Axes(("h100-sxm",), (1,), (1,), (64,), (512, 2048))


def demand(length: int) -> Demand:
    drawn = workload(length)
    return Demand(drawn, drawn, ())


def test_a_demand_larger_than_a_pipe_reaches_the_processes_and_a_dead_one_is_noticed() -> None:
    pool = Processes(demand(20_000), 1)
    try:
        assert pool.submit(num_requests).result() == 20_000
        with pytest.raises(BrokenExecutor):
            pool.submit(die).result()
    finally:
        pool.close(now=True)


def test_a_search_whose_worker_is_killed_says_how_to_go_on(tmp_path: Path) -> None:
    def dying(asked: Demand) -> Processes:
        pool = Processes(asked, 1)
        pool.submit(die)
        return pool

    stopped = searching(question(AXES), tmp_path / "search.jsonl", workload(100))
    stopped.means = replace(stopped.means, pool_for=dying)
    with pytest.raises(
        LostWorkerError, match="a worker process of the search was killed"
    ) as raised:
        stopped.run()
    assert raised.value.exit_code == 5


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Processes(demand(10), 1).close(now=False)
    assert list(tmp_path.iterdir()) == []
