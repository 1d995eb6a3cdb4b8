"""What a profiling run shows while it runs: how far it is, and which case each GPU has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.collect import Progress
from servecast.estimator.profiling.workers import Running

REFRESHES_PER_S = 4
MAX_ROWS = 16  # GPUs that are shown one by one; a screen has few lines


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Takes each report and shows it until the run ends; shows nothing where nobody sits."""
    if not console.is_terminal:
        yield lambda progress: None
        return
    bar = Bar(
        TextColumn("profiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    task = bar.add_task("profiling", total=None)
    with Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True) as live:

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.planned)
            live.update(Group(bar, running_table(progress.running, time.monotonic())))

        yield show


def running_table(running: Mapping[str, Running], now_s: float) -> RenderableType:
    """A line for each GPU that measures, by its agent's address and its number."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("GPU", "SKU", "kernel", "seconds"):
        table.add_column(name, no_wrap=True, justify="right" if name == "seconds" else "left")
    for who, what in sorted(running.items())[:MAX_ROWS]:
        table.add_row(who, what.sku, case_text(what.case), f"{now_s - what.since_s:.1f}")
    if len(running) > MAX_ROWS:
        table.add_row(f"and {len(running) - MAX_ROWS} more")
    return table


def case_text(case: KernelCase) -> str:
    """A case in a line: ``linear bf16 in_features=64 rows=4``."""
    sizes = (f"{name}={size}" for name, size in case.dims if size)
    return " ".join((case.kernel, case.dtype, *sizes))
