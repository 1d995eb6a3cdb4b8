"""Fits that do not need each other, on a core each: scikit-learn lets other threads run while trees grow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

MOST = 4  # each holds its own trees in memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``work`` of each task, in their order. The results do not depend on the number of cores.

    OpenMP keeps to one thread meanwhile: the limit is the process's, so no task may end it for another.
    """
    with (
        threadpool_limits(1, "openmp"),
        ThreadPoolExecutor(min(MOST, os.cpu_count() or 1)) as pool,
    ):
        return list(pool.map(work, tasks))
