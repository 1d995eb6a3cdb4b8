"""What a search shows while it runs: which process works on what, told by real processes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from invented_search import question, searching, wait_for, workload
from rich.console import Console

from servecast.simulator.commands.search_view import MAX_ROWS, running_table, shown
from servecast.simulator.search.pool import Here, Pool, Processes, Running
from servecast.simulator.search.space import Axes
from servecast.simulator.search.task import Demand
from servecast.simulator.search.worker import Worker

T = TypeVar("T")
PATIENCE_S = 60.0


def demand() -> Demand:
    drawn = workload(10)
    return Demand(drawn, drawn, ())


def until(claim: Callable[[], bool]) -> None:
    """Another process has to come to it."""
    begin = time.monotonic()
    while not claim():
        assert time.monotonic() < begin + PATIENCE_S
        time.sleep(0.01)


def doings(pool: Pool) -> list[str]:
    return sorted(running.doing for running in pool.running().values())


def test_processes_tell_what_they_work_on_until_they_are_done(tmp_path: Path) -> None:
    pool, go = Processes(demand(), 2), tmp_path / "go"
    try:
        tasks = [pool.submit(wait_for, go, doing=name) for name in ("tp=1", "tp=2", "tp=4")]
        until(lambda: len(pool.running()) == 2)
        assert set(doings(pool)) < {"tp=1", "tp=2", "tp=4"}
        go.touch()
        assert [task.result() for task in tasks] == [True] * 3
        until(lambda: not pool.running())
    finally:
        pool.close(now=True)


class Told(Here):
    """Remembers what was told while each task ran."""

    def __init__(self, asked: Demand) -> None:
        super().__init__(asked)
        self.seen: list[str] = []

    def submit(self, work: Callable[..., T], *args: Any, doing: str = "") -> Future[T]:
        def watched(worker: Worker, *inner: Any) -> T:
            self.seen += doings(self)
            return work(worker, *inner)

        return super().submit(watched, *args, doing=doing)


@pytest.mark.parametrize("best_only", [False, True])
def test_a_search_tells_which_configurations_it_works_on(tmp_path: Path, best_only: bool) -> None:
    axes = Axes(("h100-sxm",), (1,), (1,), (64, 128), (2048,))
    run = searching(question(axes), tmp_path / "s.jsonl", workload(100), best_only=best_only)
    pool = Told(run.demand)
    list(run.outcomes_from(pool))
    first = "64" if best_only else "64-128"
    assert f"h100-sxm tp=1 pp=1: {first} seqs, 2,048 tokens" in pool.seen


class Busy(Here):
    """So many processes that each work on something."""

    def __init__(self, processes: int, since_s: float = 5.0) -> None:
        self.processes, self.since_s = processes, since_s

    def running(self) -> Mapping[str, Running]:
        label = "rtx-pro-6000 tp=2 pp=1 fp8-kv: 64-256 seqs, 16,384 tokens"
        return {f"pid {4_194_000 + i}": Running(label, self.since_s) for i in range(self.processes)}


def drawn(pool: Pool) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(running_table(pool, now_s=17.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_line_for_each_process_fits_80_columns() -> None:
    (line,) = drawn(Busy(1))
    assert line.split() == [
        *("pid", "4194000", "rtx-pro-6000", "tp=2", "pp=1", "fp8-kv:", "64-256", "seqs,"),
        *("16,384", "tokens", "12", "s"),
    ]


def test_more_processes_than_a_screen_has_lines_are_counted() -> None:
    assert drawn(Busy(MAX_ROWS + 3))[-1].strip() == "and 3 more"


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_nothing_is_drawn_where_nobody_looks(terminal: bool, quiet: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with shown(console, quiet) as view:
        view.watching(lambda asked: Busy(2))(demand())
        view.report(1, 2, "searching")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_person_sees_how_far_it_is_and_who_works_on_what() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with shown(console, quiet=False) as view:
        view.watching(lambda asked: Busy(2, time.time()))(demand())
        view.report(1, 2, "searching")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "searching" in text
    assert "1/2" in text
    assert "pid 4194001" in text
