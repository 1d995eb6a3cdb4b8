"""Drives agents through the cases that a store lacks, and commits each result as it comes.

Workers pull cases; only the caller's thread touches the store. A lost agent's case goes back to the front of
its queue, and the agent takes part again once it answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty

from servecast.agent.client import Agent, AgentUnavailableError
from servecast.agent.messages import Node, Status
from servecast.agent.stopping import Flag
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.measured_row import row_of
from servecast.estimator.profiling.across import Member, measure_across, split_ranks
from servecast.estimator.profiling.case_queue import CaseQueue
from servecast.estimator.profiling.cross_check import Check, Disagreement, disagreements
from servecast.estimator.profiling.workers import Hello, Job, Result, Running, Shared, start_worker
from servecast.estimator.store import Store

POLL_S = 0.05  # between two looks for results
GIVE_UP_S = 30.0  # without any agent that answers


@dataclass(slots=True)
class Progress:
    """Cases by what became of them, over all SKUs. ``failed`` ones are not in the store."""

    planned: int = 0
    present: int = 0
    measured: int = 0
    out_of_memory: int = 0
    throttled: int = 0
    unstable: int = 0  # and so measured again
    failed: list[tuple[KernelCase, str]] = field(default_factory=list)
    left: int = 0
    unsupported: int = 0
    skus: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)  # by ``address/device``
    elapsed_s: float = 0.0

    @property
    def disagreements(self) -> list[Disagreement]:
        return disagreements(self.checks)

    @property
    def done(self) -> int:
        return self.present + self.measured + self.out_of_memory + len(self.failed)


def collect(
    store: Store, job: Job, report: Callable[[Progress], None] = lambda progress: None
) -> Progress:
    """Measures what the store lacks; returns once nothing is left to do, or the budget is spent.

    Raises:
        AgentError: no agent answers at the start, or for ``GIVE_UP_S`` later on. What was measured is kept.
    """
    begin = time.monotonic()
    shared, progress = Shared(job), Progress()
    for address, node in first_nodes(job).items():
        _welcome(store, shared, Hello(node, address), progress)
    workers = [start_worker(shared, address, 0) for address in job.addresses]
    try:
        finished = _supervise(store, shared, progress, report)
        shared.stop.set()
        if finished:
            _collect_across(store, shared, progress)
    except BaseException:
        shared.stop.set()
        for agent in list(shared.agents.values()):
            agent.cancel()
        raise
    finally:
        for worker in workers:
            worker.join()
        _commit(store, shared, progress, wait_s=0.0)
        _tally(shared, progress)
        progress.running = {}
        progress.elapsed_s = time.monotonic() - begin
    report(progress)
    return progress


def first_nodes(job: Job) -> dict[str, Node]:
    """Nodes of the agents that answer now, by address. Raises: AgentError where none does."""
    nodes: dict[str, Node] = {}
    errors = []
    for address in job.addresses:
        try:
            with Agent(address, job.security) as agent:
                nodes[address] = agent.describe()
        except AgentUnavailableError as error:
            errors.append(error)
    if not nodes:
        raise errors[0] if errors else AgentError("no agent was given")
    return nodes


def _welcome(store: Store, shared: Shared, hello: Hello, progress: Progress) -> None:
    """Makes the queue of a SKU that nobody had before. Raises: AgentError for a node without a SKU."""
    node = hello.node
    if not node.sku:
        raise AgentError(
            f"{node.hostname}: no SKU is known for {node.devices[0].name}; start its agent with --sku"
        )
    shared.members[hello.address] = node
    if node.sku in shared.queues:
        return
    job = shared.job
    missing, planned = store.missing(job.cases, node.sku, job.rounds), len(job.cases) * job.rounds
    progress.skus.append(node.sku)
    progress.planned += planned
    progress.present += planned - len(missing)
    shared.queues[node.sku] = CaseQueue.of(missing)


def _supervise(
    store: Store, shared: Shared, progress: Progress, report: Callable[[Progress], None]
) -> bool:
    """Commits what comes; True once nothing is left, False at the end of the budget.

    Raises: AgentError where for too long no agent answers.
    """
    begin = seen = time.monotonic()
    budget_s = shared.job.budget_s
    while shared.unfinished():
        if _commit(store, shared, progress, wait_s=POLL_S) or shared.agents:
            seen = time.monotonic()
        progress.running = dict(shared.running)
        report(progress)
        now = time.monotonic()
        if budget_s is not None and now - begin >= budget_s:
            return False
        if now - seen > GIVE_UP_S:
            raise AgentError(f"no agent has answered for {GIVE_UP_S:.0f} s; run again to go on")
    return True


def _collect_across(store: Store, shared: Shared, progress: Progress) -> None:
    """Measures the collectives that need the devices of several agents, one after the other."""
    for sku, queue in shared.queues.items():
        members = [Member(a, n) for a, n in shared.members.items() if n.sku == sku]
        for case in queue.left():
            chosen = split_ranks(case, members)
            if chosen and queue.take(case.__eq__) is not None:
                _keep(store, [measure_across(case, chosen, shared.job)], progress)
                queue.finish(case)


def _commit(store: Store, shared: Shared, progress: Progress, wait_s: float) -> bool:
    """Whether anything had come. All results at hand become one transaction."""
    events = list(_arrived(shared, wait_s))
    for event in events:
        if isinstance(event, Hello):
            _welcome(store, shared, event, progress)
    progress.checks += [event for event in events if isinstance(event, Check)]
    _keep(store, [event for event in events if isinstance(event, Result)], progress)
    return bool(events)


def _keep(store: Store, results: list[Result], progress: Progress) -> None:
    """Commits what is an answer, and counts all."""
    kept = [r for r in results if r.outcome.status in (Status.MEASURED, Status.OUT_OF_MEMORY)]
    store.add_measurements(row_of(r) for r in kept)
    for result in results:
        _count(result, progress)
        result.kept.set()


def _arrived(shared: Shared, wait_s: float) -> Iterator[Hello | Result | Check]:
    """What workers have sent; waits for the first."""
    try:
        yield shared.events.get(timeout=wait_s) if wait_s else shared.events.get_nowait()
        while True:
            yield shared.events.get_nowait()
    except Empty:
        return


def _count(result: Result, progress: Progress) -> None:
    outcome = result.outcome
    if outcome.status is Status.OUT_OF_MEMORY:
        progress.out_of_memory += 1
    elif outcome.status is not Status.MEASURED:
        progress.failed.append((result.case, outcome.message))
    elif Flag.THROTTLED in outcome.flags:
        progress.throttled += 1
    elif result.again:
        progress.unstable += 1
    else:
        progress.measured += 1


def _tally(shared: Shared, progress: Progress) -> None:
    for sku, queue in shared.queues.items():
        for case in queue.left():
            if shared.runnable(sku, case):
                progress.left += 1
            else:
                progress.unsupported += 1
