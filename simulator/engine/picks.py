"""Policies that depend on the moment: functions that pick the next request among the waiting, the victim
among the running, or a batch's token budget.

To add one, write a function as `hooks.py` says and a row in `PICKS`, `VICTIMS` or `BUDGETS`. Rows of one
name, one in `orders.ORDERS` among them, are one policy; what it has no row for is done as vLLM v1 does it.
Decorated with ``numba.njit`` a function costs nanoseconds a decision, as it is microseconds; interpreted it
stops at breakpoints either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


@numba.njit
def highest_response_ratio_next(waiting: Any, requests: Any, now_s: float) -> int:
    """The one that has waited longest for its length: short ones first, but nobody starves.

    SOURCE: Brinch Hansen 1971, Short-term scheduling in multiprogramming systems; length is the prompt's.
    """
    best, highest, first = 0, -1.0, 0
    for place in range(len(waiting)):
        i = waiting[place]
        ratio = (now_s - requests.arrival_s[i]) / requests.prompt[i]
        if ratio > highest or (ratio == highest and i < first):
            best, highest, first = place, ratio, i
    return best


PICKS: dict[str, Callable[..., Any]] = {"hrrn": highest_response_ratio_next}
VICTIMS: dict[str, Callable[..., Any]] = {}
BUDGETS: dict[str, Callable[..., Any]] = {}
