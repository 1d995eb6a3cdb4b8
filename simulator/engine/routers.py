"""Rules that send requests to replicas, written ``name`` or ``name:parameter=value,…`` as policies are.

A static rule is data: the replica of each request. A rule that looks at the replicas is a case in
`dispatch.py`; its data are what it knows of each request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.engine.dispatch import (
    BETTER_OF_TWO,
    DEFERRED,
    LEAST_LOADED,
    REPORTED,
    STATIC,
    STICKY,
)
from servecast.simulator.engine.policy import parse_parameters
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Workload

Ints = NDArray[np.int64]

LOADED: Mapping[str, float] = {"stale_s": 0.0, "own": 1}
"""Of a rule that compares loads: how old what it knows of finished requests may be (it is refreshed at
every multiple; 0: as it is), and whether it counts requests that it sent since. SOURCE: Mitzenmacher 2000,
How useful is old information?"""


@dataclass(frozen=True, slots=True)
class Router:
    """``choices(workload, replicas)`` are two numbers for each request, shape [2, requests].

    A static rule takes the first as the replica; `BETTER_OF_TWO` compares both; for `STICKY` the second is
    the session's request before, or -1. With ``tokens`` a load is unfinished prompts' tokens, not requests.
    """

    rule: int
    choices: Callable[[Workload, int], Ints]
    tokens: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)


def _in_turn(workload: Workload, replicas: int) -> Ints:
    turns = np.tile(np.arange(replicas), -(-len(workload) // replicas))[: len(workload)]
    return np.broadcast_to(turns, (2, len(workload)))


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


def _by_session(workload: Workload, replicas: int) -> Ints:
    """The request before of the same session.

    Raises:
        UserError: the workload does not say which requests are of one session.
    """
    if workload.session is None:
        raise UserError(
            f"{workload.name}: router 'session_sticky' needs a trace with the session of each request"
        )
    order = np.argsort(workload.session, kind="stable")
    again = workload.session[order][1:] == workload.session[order][:-1]
    before = np.full(len(workload), -1)
    before[order[1:][again]] = order[:-1][again]
    return np.stack((np.zeros(len(workload), np.int64), before))


ROUTERS: dict[str, Router] = {
    "round_robin": Router(STATIC, _in_turn),
    "least_outstanding": Router(LEAST_LOADED, _in_turn, parameters=LOADED),
    "least_tokens": Router(LEAST_LOADED, _in_turn, tokens=True, parameters=LOADED),
    "power_of_two": Router(BETTER_OF_TWO, _at_random, parameters=LOADED),
    "random": Router(STATIC, _at_random),
    "prefix_affinity": Router(STATIC, _by_prefix),
    "session_sticky": Router(STICKY, _by_session, parameters=LOADED),
    "deferred": Router(DEFERRED, _in_turn, parameters={"limit": 0}),
    "vllm_ranks": Router(REPORTED, _in_turn, parameters={"message_s": 0.01}),
}
"""``deferred`` keeps requests in one queue until a replica has fewer than ``limit`` (0: max_num_seqs).

``vllm_ranks`` sends to data-parallel ranks as vLLM 0.19 does: four times the waiting and the running requests
as each rank counted them after a step, as `coordinator.py` tells them, and four for each request sent since.
``message_s`` passes between a count and its being heard: 8 to 11 ms by the clocks of LLMServingSim's
recording, which show who shared a rank (``benchmarks/recorded_ranks.py``).
"""


@dataclass(frozen=True, slots=True)
class Routing:
    """One row of `ROUTERS` and the parameters that were said."""

    name: str
    said: Mapping[str, float]

    @property
    def router(self) -> Router:
        return ROUTERS[self.name]

    def check(self, async_scheduling: bool, lock_step: int) -> None:
        """
        Raises:
            UserError: the rule is not for replicas that form their batches so.
        """
        if self.router.rule == DEFERRED and async_scheduling:
            raise UserError(
                f"router {self.name!r} with async_scheduling: batches are formed too early"
            )
        if self.router.rule == REPORTED and lock_step == 1:
            raise UserError(f"router {self.name!r} is for ranks in lock step: give --lock-step")

    def choices(self, workload: Workload, fits: NDArray[np.bool_], replicas: int) -> Ints:
        """Of the requests that fit, [2, those]; the others are never sent."""
        if not fits.any():
            return np.zeros((2, 0), np.int64)
        if not fits.all():
            workload = workload.take(np.flatnonzero(fits), workload.arrival_s[fits])
        return self.router.choices(workload, replicas)

    def value(self, parameter: str) -> float:
        """What was said, the default, or 0 where the rule has no such parameter."""
        return self.said.get(parameter, self.router.parameters.get(parameter, 0))


@lru_cache
def parse_router(text: str) -> Routing:
    """
    Raises:
        UserError: no such router or parameter, or a value that is no number of the right kind.
    """
    name, _, rest = text.partition(":")
    if name not in ROUTERS:
        hint = did_you_mean(name, ROUTERS)
        raise UserError(f"router {name!r} is not one of {', '.join(ROUTERS)}{hint}")
    return Routing(name, parse_parameters(f"router {text!r}", rest, ROUTERS[name].parameters))
