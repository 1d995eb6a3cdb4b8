"""Orders of service: a policy that is data, one key per request.

The smallest key is admitted first, the largest is preempted first; equal keys go by arrival. A policy sees
what a scheduler could see on arrival: never the output lengths. To add one, write a function of the workload,
whose keyword-only arguments are its parameters, and a row in `ORDERS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.workload import Workload

Keys = NDArray[np.float64]
Order = Callable[..., Keys]


def first_come_first_served(workload: Workload) -> Keys:
    """vLLM v1's default (vllm/v1/core/sched/request_queue.py, SchedulingPolicy.FCFS)."""
    return np.arange(len(workload), dtype=np.float64)


def shortest_prompt_first(workload: Workload) -> Keys:
    """Shortest job first by the one length that is known on arrival."""
    return workload.prompt_tokens.astype(np.float64)


def priority_classes(workload: Workload) -> Keys:
    """The workload's classes, 0 first, each by arrival (vllm/v1/core/sched/request_queue.py, PRIORITY).

    Raises:
        UserError: the workload has no classes.
    """
    if workload.priority is None:
        raise UserError(
            f"{workload.name}: policy 'priority' needs a trace with a priority of each request"
        )
    return workload.priority.astype(np.float64)


def earliest_deadline_first(
    workload: Workload, *, ttft_s: float = 1.0, per_prompt_token_s: float = 0.0
) -> Keys:
    """The first token is due ``ttft_s`` after arrival, and so much later for each prompt token.

    SOURCE: Liu and Layland 1973, section 7.
    """
    return workload.arrival_s + ttft_s + per_prompt_token_s * workload.prompt_tokens


ORDERS: dict[str, Order] = {
    "vllm_v1": first_come_first_served,
    "shortest_prompt_first": shortest_prompt_first,
    "priority": priority_classes,
    "edf": earliest_deadline_first,
}


def ranks(keys: Keys) -> NDArray[np.int64]:
    """Keys as distinct integers in the same order, ties by arrival."""
    if np.all(keys[1:] >= keys[:-1]):
        return np.arange(len(keys))
    order = np.argsort(_narrow(keys), kind="stable")
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    return rank


def _narrow(keys: Keys) -> NDArray[np.float64 | np.uint16]:
    """Whole numbers that span little as two bytes each, which NumPy sorts four times as fast."""
    above = keys - keys.min()
    whole = above.max() < 1 << 16 and np.array_equal(above, np.floor(above))
    return above.astype(np.uint16) if whole else keys
