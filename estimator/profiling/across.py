"""Collectives whose ranks live on several agents: one call to each, met at the first one's rendezvous."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from servecast.agent.client import Agent
from servecast.agent.messages import Group, Node, Outcome, Rendezvous
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.workers import CASE_TIMEOUT_S, Job, Result


@dataclass(frozen=True, slots=True)
class Member:
    """An agent and the node it described."""

    address: str
    node: Node


def split_ranks(case: KernelCase, members: Sequence[Member]) -> list[Member]:
    """The fewest members that share the case's degree equally; none where no number of them does."""
    degree = dict(case.dims).get("degree", 0)
    able = [(m, _local_ranks(m.node, case)) for m in members]
    able = sorted((pair for pair in able if pair[1]), key=lambda pair: -pair[1])
    for number in count(2):
        if number > len(able):
            return []
        if degree % number == 0 and able[number - 1][1] >= degree // number:
            return [member for member, _ in able[:number]]
    return []


def _local_ranks(node: Node, case: KernelCase) -> int:
    """How many ranks of the case a node can run, 0 where it has no such collective."""
    for support in node.kernels:
        if support.kernel == case.kernel and case.dtype in support.dtypes:
            return support.max_degree
    return 0


def measure_across(case: KernelCase, members: Sequence[Member], job: Job) -> Result:
    """What rank 0 measured. Raises: AgentError where any of the agents fails."""
    degree = dict(case.dims)["degree"]
    share = degree // len(members)
    host = members[0].address.rpartition(":")[0]
    with ThreadPoolExecutor(len(members)) as pool:
        with Agent(members[0].address, job.security) as first:
            group = Group(degree, 0, share, host=host)
            events = first.profile([case], job.settings, group=group, timeout_s=CASE_TIMEOUT_S)
            outcome, others = None, []
            for _, event in events:
                if isinstance(event, Rendezvous):
                    others = [
                        pool.submit(
                            _join, case, member, job, Group(degree, n * share, share, event.address)
                        )
                        for n, member in enumerate(members[1:], start=1)
                    ]
                if isinstance(event, Outcome):
                    outcome = event
        for other in others:
            other.result()
    if outcome is None:
        raise AgentError(f"agent {members[0].address} ended a collective without an outcome")
    return Result(case, members[0].node, 0, outcome, time.time_ns(), f"{len(members)} nodes")


def _join(case: KernelCase, member: Member, job: Job, group: Group) -> None:
    with Agent(member.address, job.security) as agent:
        for _ in agent.profile([case], job.settings, group=group, timeout_s=CASE_TIMEOUT_S):
            pass
