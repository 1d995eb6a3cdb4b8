"""The threads that pull cases: one per GPU, each the only one that talks to its agent about that GPU."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue

from servecast.agent.client import Agent, AgentUnavailableError
from servecast.agent.messages import Event, Node, Outcome, Samples, Settings, Status
from servecast.agent.security import ClientSecurity
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.case_queue import CaseQueue
from servecast.estimator.profiling.cross_check import Check, cases_to_check

POLL_S = 0.05  # between two looks of an idle worker
DESCRIBE_TIMEOUT_S = 3.0  # an agent that takes longer hangs
RECONNECT_S = 0.5  # between two tries to reach a lost agent
CASE_TIMEOUT_S = 180.0  # of one case: waiting for another caller's, preparing, sampling


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent answered, for the first time or again."""

    node: Node
    address: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One case, measured by one GPU of an agent."""

    case: KernelCase
    node: Node
    device: int
    outcome: Outcome
    measured_at_ns: int
    variant: str = ""  # how many nodes a collective spanned, where more than one
    samples_us: tuple[float, ...] = ()  # where the job keeps them
    again: bool = False  # it will be measured once more
    kept: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Running:
    """The case that a GPU has, since when by the monotonic clock."""

    sku: str
    case: KernelCase
    since_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """What to collect. ``cases`` in the order wanted; a budget of None is no limit."""

    addresses: tuple[str, ...]
    cases: tuple[KernelCase, ...]
    settings: Settings = field(default_factory=Settings)
    budget_s: float | None = None
    security: ClientSecurity = field(default_factory=ClientSecurity)
    cross_checks: int = 0  # cases that every GPU measures, to compare nodes of one SKU
    keep_samples: bool = False
    rounds: int = 1  # of all cases, one after the other


@dataclass(slots=True)
class Shared:
    """What the workers and the caller's thread share.

    Workers write ``agents`` and ``running``; the caller ``queues`` and ``members``.
    """

    job: Job
    events: SimpleQueue[Hello | Result | Check] = field(default_factory=SimpleQueue)
    queues: dict[str, CaseQueue] = field(default_factory=dict)
    members: dict[str, Node] = field(default_factory=dict)  # by address, as last described
    agents: dict[threading.Thread, Agent] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)  # by ``address/device``
    stop: threading.Event = field(default_factory=threading.Event)

    def runnable(self, sku: str, case: KernelCase) -> bool:
        return any(n.sku == sku and n.runs(case) for n in list(self.members.values()))

    def unfinished(self) -> bool:
        """Whether anything is being measured, or waits and can be."""
        return any(
            queue.taken or any(self.runnable(sku, case) for case in queue.left())
            for sku, queue in self.queues.items()
        )


def start_worker(shared: Shared, address: str, device: int) -> threading.Thread:
    name = f"{address}/{device}"
    worker = threading.Thread(target=_work, args=(shared, address, device), name=name, daemon=True)
    worker.start()
    return worker


def _work(shared: Shared, address: str, device: int) -> None:
    """One GPU's thread: reaches its agent, pulls its cases, and reaches it again when it is lost.

    The thread of device 0 starts and joins those of the agent's other devices.
    """
    others: list[threading.Thread] = []
    checked = False
    while not shared.stop.is_set():
        with Agent(address, shared.job.security) as agent:
            try:
                node = agent.describe(DESCRIBE_TIMEOUT_S)
            except AgentError:
                shared.stop.wait(RECONNECT_S)
                continue
            shared.events.put(Hello(node, address))
            shared.agents[threading.current_thread()] = agent
            if device == 0 and not others:
                others = [start_worker(shared, address, d.index) for d in node.devices[1:]]
            if not checked:
                checked = _cross_check(shared, agent, node, device)
            _pull(shared, agent, node, device)
            del shared.agents[threading.current_thread()]
    for other in others:
        other.join()


def _cross_check(shared: Shared, agent: Agent, node: Node, device: int) -> bool:
    """Measures the cases that all GPUs measure; False where the agent was lost over it."""
    for case in cases_to_check(shared.job.cases, shared.job.cross_checks):
        if not node.runs(case) or shared.stop.is_set():
            continue
        try:
            outcome, _ = _measure(agent, case, shared.job.settings, device)
        except AgentError:
            return False
        if outcome.statistics is not None:
            who = f"{agent.address}/{device}"
            shared.events.put(Check(who, node.sku, case, outcome.statistics))
    return True


def _pull(shared: Shared, agent: Agent, node: Node, device: int) -> None:
    """Measures waiting cases one by one; returns when told to stop, or when the agent is lost."""
    while not shared.stop.is_set():
        queue = shared.queues.get(node.sku)
        case = queue.take(node.runs) if queue else None
        if queue is None or case is None:
            shared.stop.wait(POLL_S)
            continue
        who = f"{agent.address}/{device}"
        shared.running[who] = Running(node.sku, case, time.monotonic())
        samples_us: tuple[float, ...] = ()
        try:
            outcome, samples_us = _measure(agent, case, shared.job.settings, device)
        except AgentUnavailableError as error:
            if queue.give_back(case):
                return
            outcome = Outcome(Status.FAILED, message=f"agents were lost on it; the last: {error}")
        except AgentError as error:
            outcome = Outcome(Status.FAILED, message=str(error))
        finally:
            shared.running.pop(who, None)
        kept_us = samples_us if shared.job.keep_samples else ()
        again = queue.wants_again(case, outcome.flags)
        found = Result(case, node, device, outcome, time.time_ns(), samples_us=kept_us, again=again)
        shared.events.put(found)
        queue.finish(case, again=again)
        if node.backend == "cpu":
            _wait_until_kept(shared, found)


def _wait_until_kept(shared: Shared, found: Result) -> None:
    """Committing a result beside the next kernel would take caches from it, if they share a processor."""
    while not shared.stop.is_set() and not found.kept.wait(POLL_S):
        pass


def _measure(
    agent: Agent, case: KernelCase, settings: Settings, device: int
) -> tuple[Outcome, tuple[float, ...]]:
    """The case's outcome, and its samples in the order taken. Raises: AgentError."""
    last: Event | None = None
    samples_us: list[float] = []
    for _, event in agent.profile([case], settings, device, timeout_s=CASE_TIMEOUT_S):
        last = event
        if isinstance(event, Samples):
            samples_us += event.runtime_us
    if not isinstance(last, Outcome):
        raise AgentUnavailableError(f"agent {agent.address} ended a case without an outcome")
    return last, tuple(samples_us)
