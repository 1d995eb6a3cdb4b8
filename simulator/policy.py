"""Orders of service: a policy is data, one key per request.

The smallest key is admitted first, the largest is preempted first; equal keys go by arrival. A policy sees
what a scheduler could see on arrival: never the output lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.workload import Workload

Policy = Callable[[Workload], NDArray[np.float64]]


def first_come_first_served(workload: Workload) -> NDArray[np.float64]:
    """vLLM v1's default (vllm/v1/core/sched/scheduler.py, SchedulingPolicy.FCFS)."""
    return np.arange(len(workload), dtype=np.float64)


def shortest_prompt_first(workload: Workload) -> NDArray[np.float64]:
    """Shortest job first by the one length that is known on arrival."""
    return workload.prompt_tokens.astype(np.float64)


POLICIES: dict[str, Policy] = {
    "vllm_v1": first_come_first_served,
    "shortest_prompt_first": shortest_prompt_first,
}


def ranks(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Keys as distinct integers in the same order, ties by arrival."""
    if np.all(keys[1:] >= keys[:-1]):
        return np.arange(len(keys))
    order = np.argsort(keys, kind="stable")
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    return rank
