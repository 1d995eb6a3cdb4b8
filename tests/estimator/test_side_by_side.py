"""Fits side by side: their order, and what of scikit-learn's warnings reaches a user."""

from __future__ import annotations

import subprocess
import sys

from servecast.estimator.learners.side_by_side import side_by_side

TASKS = """
import warnings
from servecast.estimator.learners.side_by_side import FALSE_ALARM, side_by_side
def work(text):
    with warnings.catch_warnings():
        warnings.resetwarnings()  # as scikit-learn's tasks do
        warnings.warn(text)
side_by_side(work, [FALSE_ALARM + " itself", "a real one"])
"""


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert side_by_side(lambda n: n * n, [3, 1, 2]) == [9, 1, 4]


def test_a_warning_of_filters_that_another_fit_has_emptied_is_not_shown_and_others_are() -> None:
    """In a process of its own: pytest has filters, and shows warnings itself."""
    done = subprocess.run([sys.executable, "-c", TASKS], capture_output=True, text=True, check=True)
    assert done.stderr.count("Warning") == 1
    assert "a real one" in done.stderr
