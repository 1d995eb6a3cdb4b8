"""Rules that send requests to replicas.

A static rule is data: the replica of each request. A rule that looks at the replicas is a case in
`dispatch.choose`; its data are the replicas that it compares for each request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.arrivals import stream
from servecast.simulator.dispatch import BETTER_OF_TWO, LEAST_OUTSTANDING, STATIC
from servecast.simulator.object_engine import Job, ObjectReplica, Route
from servecast.simulator.workload import Workload

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Router:
    """``choices(workload, replicas)`` are two replicas for each request, shape [2, requests]; a static rule
    takes the first."""

    rule: int
    choices: Callable[[Workload, int], Ints]


def _in_turn(workload: Workload, replicas: int) -> Ints:
    return np.tile(np.arange(len(workload)) % replicas, (2, 1))


def _at_random(workload: Workload, replicas: int) -> Ints:
    """Two different replicas where there are two; the same ones in every run."""
    rng = stream(0, "routing")
    first = rng.integers(0, replicas, len(workload))
    if replicas == 1:
        return np.stack((first, first))
    return np.stack((first, (first + rng.integers(1, replicas, len(workload))) % replicas))


def _by_prefix(workload: Workload, replicas: int) -> Ints:
    """Requests that begin with the same block go to the same replica.

    Raises:
        UserError: the workload does not say which prompts share a prefix.
    """
    prefix = workload.prefix
    if prefix is None:
        raise UserError(
            f"{workload.name}: router 'prefix_affinity' needs a trace with the prompts' block hashes"
        )
    sizes = np.diff(prefix.offsets)
    first = np.where(sizes > 0, prefix.ids[np.minimum(prefix.offsets[:-1], len(prefix.ids) - 1)], 0)
    _, group = np.unique(first, return_inverse=True)
    return np.tile(group % replicas, (2, 1))


ROUTERS: dict[str, Router] = {
    "round_robin": Router(STATIC, _in_turn),
    "least_outstanding": Router(LEAST_OUTSTANDING, _in_turn),
    "power_of_two": Router(BETTER_OF_TWO, _at_random),
    "random": Router(STATIC, _at_random),
    "prefix_affinity": Router(STATIC, _by_prefix),
}


def object_route(workload: Workload, router: str, replicas: int) -> Route:
    """The same rule for `object_engine.py`."""
    rule = ROUTERS[router].rule
    choices: list[list[int]] = ROUTERS[router].choices(workload, replicas).T.tolist()

    def route(job: Job, every: Sequence[ObjectReplica]) -> int:
        first, second = choices[job.number]
        compared = {
            STATIC: [every[first]],
            BETTER_OF_TWO: [every[first], every[second]],
            LEAST_OUTSTANDING: every,
        }
        return min(compared[rule], key=lambda replica: len(replica.outstanding)).number

    return route
