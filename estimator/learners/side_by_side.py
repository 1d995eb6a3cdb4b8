"""Fits that do not need each other, on a core each: scikit-learn lets other threads run while trees grow."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

MOST = 4  # each holds its own trees in memory
FALSE_ALARM = "`sklearn.utils.parallel.delayed` should be used with"

Task = TypeVar("Task")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``work`` of each task, in their order. The results do not depend on the number of cores.

    OpenMP keeps to one thread meanwhile: the limit is the process's, so no task may end it for another.
    """
    with (
        threadpool_limits(1, "openmp"),
        _without_false_alarms(),
        ThreadPoolExecutor(min(MOST, os.cpu_count() or 1)) as pool,
    ):
        return list(pool.map(work, tasks))


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """scikit-learn empties the filters of warnings while a tree grows, for all threads: one that starts to
    grow another meanwhile finds none and warns of itself. No filter could catch that.
    """
    told = warnings.showwarning

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        if FALSE_ALARM not in str(message):
            told(message, *about, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = told
