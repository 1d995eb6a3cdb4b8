"""What a search shows while it runs: how far it is, when it will be done, and what each process works on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from servecast.simulator.search.pool import Pool
from servecast.simulator.search.task import Demand

REFRESHES_PER_S = 4
MAX_ROWS = 16  # processes that are shown one by one; a screen has few lines


@dataclass(slots=True)
class SearchView:
    """The bar and, below it, the processes of the pool that it watches."""

    bar: Progress
    task: TaskID
    pool: Pool | None = None

    def report(self, done: int, total: int, doing: str) -> None:
        """`Means.progress`."""
        self.bar.update(self.task, completed=done, total=total, description=doing)

    def watching(self, pool_for: Callable[[Demand], Pool]) -> Callable[[Demand], Pool]:
        """As ``pool_for``, and the pool is watched from then on."""

        def make(demand: Demand) -> Pool:
            self.pool = pool_for(demand)
            return self.pool

        return make

    def __rich__(self) -> RenderableType:
        if self.pool is None:
            return self.bar
        return Group(self.bar, running_table(self.pool, time.time()))


@contextmanager
def shown(console: Console, quiet: bool) -> Iterator[SearchView]:
    """A view where a person is looking, silence elsewhere."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip
    view = SearchView(bar, bar.add_task("compiling"))
    if quiet or not console.is_terminal:
        yield view
        return
    with Live(view, console=console, refresh_per_second=REFRESHES_PER_S, transient=True):
        yield view


def running_table(pool: Pool, now_s: float) -> RenderableType:
    """A line for each process that works, by its name."""
    running = {who: what for who, what in sorted(pool.running().items()) if what.doing}
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    for who, what in list(running.items())[:MAX_ROWS]:
        table.add_row(who, what.doing, f"{max(now_s - what.since_s, 0):.0f} s")
    if len(running) > MAX_ROWS:
        table.add_row(f"and {len(running) - MAX_ROWS} more")
    return table
