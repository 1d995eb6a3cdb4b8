"""The coordinator with scripted agents behind real servers: what it stores, retries, counts and gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest

from servecast.agent.cpu import CpuBackend
from servecast.agent.messages import (
    Device,
    Event,
    KernelSupport,
    Node,
    Outcome,
    Placement,
    Settings,
    Status,
)
from servecast.agent.profiler import Profiler
from servecast.agent.server import AgentServer, create_server
from servecast.agent.service import CaseProfiler
from servecast.agent.stopping import Flag, Statistics, StopReason
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.measurement import Measurement
from servecast.estimator.profiling import collect as collect_module
from servecast.estimator.profiling.collect import Progress, collect
from servecast.estimator.profiling.workers import Job, Running
from servecast.estimator.store import Store

Serve = Callable[[CaseProfiler], AgentServer]
LINEAR = KernelSupport("linear", ("rows",), ("bf16",))


def case(rows: int, dtype: str = "bf16") -> KernelCase:
    return KernelCase("linear", dtype, "", (("rows", rows),))


def measured(mean_us: float = 10.0, *flags: Flag) -> Outcome:
    statistics = Statistics(10, mean_us, 0.01, mean_us, mean_us, mean_us)
    return Outcome(
        Status.MEASURED, statistics=statistics, stop_reason=StopReason.CONVERGED, flags=flags
    )


@dataclass
class Scripted:
    """An agent that answers each case by ``answer`` and notes what it was asked."""

    answer: Callable[[KernelCase], Outcome] = lambda case: measured()
    sku: str = "cpu"
    backend: str = "cpu"
    asked: list[KernelCase] = field(default_factory=list)

    def describe(self) -> Node:
        device = Device(0, "scripted", "", 1, 1)
        return Node("0", "fake", self.backend, self.sku, (device,), (), (), (LINEAR,), 1)

    def check(self, case: KernelCase, settings: Settings, placement: Placement) -> None: ...

    def close(self) -> None: ...

    def profile(
        self,
        case: KernelCase,
        settings: Settings,
        placement: Placement,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        self.asked.append(case)
        yield self.answer(case)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(profiler: CaseProfiler) -> AgentServer:
            server = create_server(profiler, "127.0.0.1", 0)
            server.start()
            stack.callback(server.stop, 0.0)
            return server

        yield start


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as store:
        yield store


def job(servers: list[AgentServer], *cases: KernelCase, **options: float) -> Job:
    addresses = tuple(f"127.0.0.1:{server.port}" for server in servers)
    return Job(addresses, cases, **options)  # type: ignore[arg-type]  # budget_s and cross_checks


def stored(store: Store, sku: str = "cpu") -> list[KernelCase]:
    return sorted(row.case for row in store.measurements(sku))


def test_only_what_is_missing_is_measured(serve: Serve, store: Store) -> None:
    agent = Scripted()
    servers = [serve(agent)]
    collect(store, job(servers, case(1)))
    done = collect(store, job(servers, case(1), case(2)))
    assert (done.present, done.measured) == (1, 1)
    assert agent.asked == [case(1), case(2)]


@pytest.mark.parametrize(
    ("backend", "waits"), [("cpu", True), ("cuda", False)], ids=["processor", "GPU"]
)
def test_a_processor_is_asked_for_no_kernel_while_a_result_is_written_beside_it(
    serve: Serve, store: Store, monkeypatch: pytest.MonkeyPatch, backend: str, waits: bool
) -> None:
    order: list[str] = []

    def answer(asked: KernelCase) -> Outcome:
        order.append(f"asked {asked.dims[0][1]}")
        return measured()

    def slowly(store: Store, rows: Iterable[Measurement]) -> None:
        for _ in rows:
            time.sleep(0.2)
            order.append("written")

    monkeypatch.setattr(Store, "add_measurements", slowly)
    collect(store, job([serve(Scripted(answer, backend=backend))], case(1), case(2)))
    assert (order[:3] == ["asked 1", "written", "asked 2"]) is waits


def test_out_of_memory_is_an_answer_that_is_kept(serve: Serve, store: Store) -> None:
    servers = [serve(Scripted(lambda case: Outcome(Status.OUT_OF_MEMORY, "needs 9 bytes")))]
    assert collect(store, job(servers, case(1))).out_of_memory == 1
    assert collect(store, job(servers, case(1))).present == 1
    assert store.measurements("cpu")[0].timing is None


def test_a_failed_case_is_told_and_not_kept(serve: Serve, store: Store) -> None:
    servers = [serve(Scripted(lambda case: Outcome(Status.FAILED, "no such instruction")))]
    done = collect(store, job(servers, case(1)))
    assert done.failed == [(case(1), "no such instruction")]
    assert stored(store) == []


def test_a_throttled_case_is_measured_again_after_the_others(serve: Serve, store: Store) -> None:
    answers = iter([measured(10.0, Flag.THROTTLED), measured(), measured()])
    agent = Scripted(lambda case: next(answers))
    done = collect(store, job([serve(agent)], case(1), case(2)))
    assert agent.asked == [case(1), case(2), case(1)]
    assert (done.measured, done.throttled, done.left) == (2, 1, 0)


def test_an_unstable_case_is_measured_once_more_after_the_others_and_both_rows_are_kept(
    serve: Serve, store: Store
) -> None:
    agent = Scripted(lambda case: measured(10.0 + len(agent.asked), Flag.DRIFTING))
    done = collect(store, job([serve(agent)], case(1), case(2)))
    assert agent.asked == [case(1), case(2), case(1), case(2)]
    assert (done.measured, done.unstable, done.done, done.planned) == (2, 2, 2, 2)
    assert stored(store) == [case(1), case(1), case(2), case(2)]
    assert collect(store, job([serve(agent)], case(1), case(2))).present == 2


def test_rounds_measure_all_cases_once_then_all_again(serve: Serve, store: Store) -> None:
    agent = Scripted(lambda case: measured(10.0 + len(agent.asked)))
    twice = replace(job([serve(agent)], case(1), case(2)), rounds=2)
    done = collect(store, twice)
    assert agent.asked == [case(1), case(2), case(1), case(2)]
    assert (done.measured, done.planned, done.present) == (4, 4, 0)
    done = collect(store, replace(twice, rounds=3))
    assert agent.asked[4:] == [case(1), case(2)]
    assert (done.measured, done.planned, done.present) == (2, 6, 4)


def test_what_no_agent_can_run_is_counted_and_ends_the_run(serve: Serve, store: Store) -> None:
    done = collect(store, job([serve(Scripted())], case(1), case(2, dtype="nvfp4")))
    assert (done.measured, done.unsupported, done.left) == (1, 1, 0)


def test_two_agents_share_the_cases_of_their_sku(serve: Serve, store: Store) -> None:
    both = threading.Barrier(2, timeout=5)

    def together(case: KernelCase) -> Outcome:
        both.wait()
        return measured()

    agents = [Scripted(together), Scripted(together)]
    done = collect(store, job([serve(agent) for agent in agents], case(1), case(2)))
    assert done.measured == 2
    assert sorted(agents[0].asked + agents[1].asked) == [case(1), case(2)]


def test_each_sku_gets_all_cases(serve: Serve, store: Store) -> None:
    servers = [serve(Scripted(sku=sku)) for sku in ("a40", "l40s")]
    collect(store, job(servers, case(1), case(2)))
    assert stored(store, "a40") == stored(store, "l40s") == [case(1), case(2)]


def test_the_end_of_the_budget_leaves_the_rest_for_the_next_run(serve: Serve, store: Store) -> None:
    pause = threading.Event()

    def slow(case: KernelCase) -> Outcome:
        pause.wait(0.05)
        return measured()

    servers = [serve(Scripted(slow))]
    cases = [case(rows) for rows in range(1, 100)]
    first = collect(store, job(servers, *cases, budget_s=0.3))
    assert first.left > 0
    assert first.measured + first.left == 99
    assert len(stored(store)) == first.measured


def test_nodes_that_disagree_are_reported(serve: Serve, store: Store) -> None:
    servers = [serve(Scripted(lambda case, us=us: measured(us))) for us in (10.0, 12.0)]  # type: ignore[misc]
    done = collect(store, job(servers, case(1), case(2), cross_checks=1))
    assert len(done.disagreements) == 1
    assert "20% more" in str(done.disagreements[0])
    assert stored(store) == [case(1), case(2)]


def test_an_agent_that_is_not_there_does_not_stop_the_others(serve: Serve, store: Store) -> None:
    addresses = (f"127.0.0.1:{serve(Scripted()).port}", "127.0.0.1:1")
    assert collect(store, Job(addresses, (case(1),))).measured == 1


def test_no_agent_at_all_is_one_sentence(store: Store) -> None:
    with pytest.raises(AgentError, match=r"127\.0\.0\.1:1 does not answer"):
        collect(store, Job(("127.0.0.1:1",), (case(1),)))


def test_a_lost_agent_without_another_is_given_up_and_what_was_measured_is_kept(
    serve: Serve, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "GIVE_UP_S", 0.3)
    servers: list[AgentServer] = []

    def dies_on_the_second(asked: KernelCase) -> Outcome:
        if asked == case(2):
            servers[0].server.stop(0)
            raise RuntimeError("gone")
        return measured()

    servers.append(serve(Scripted(dies_on_the_second)))
    with pytest.raises(AgentError, match="no agent has answered for 0 s; run again to go on"):
        collect(store, job(servers, case(1), case(2)))
    assert stored(store) == [case(1)]


def test_a_node_without_a_sku_is_refused_with_what_to_do(serve: Serve, store: Store) -> None:
    with pytest.raises(
        AgentError, match="no SKU is known for scripted; start its agent with --sku"
    ):
        collect(store, job([serve(Scripted(sku=""))], case(1)))


def test_progress_is_told_while_cases_are_measured(serve: Serve, store: Store) -> None:
    told: list[int] = []
    collect(store, job([serve(Scripted())], case(1), case(2)), lambda p: told.append(p.done))
    assert told == sorted(told)
    assert told[-1] == 2


def test_progress_tells_which_case_every_gpu_has_until_the_end(serve: Serve, store: Store) -> None:
    told: list[dict[str, Running]] = []

    def slowly(case: KernelCase) -> Outcome:
        time.sleep(0.3)
        return measured()

    server = serve(Scripted(slowly))
    collect(store, job([server], case(1)), lambda p: told.append(p.running))
    running = next(found for found in told if found)
    assert running[f"127.0.0.1:{server.port}/0"].case == case(1)
    assert told[-1] == {}


def test_an_interrupt_keeps_what_was_measured(serve: Serve, store: Store) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.measured:
            raise KeyboardInterrupt

    cases = [case(rows) for rows in range(1, 500)]
    with pytest.raises(KeyboardInterrupt):
        collect(store, job([serve(Scripted())], *cases), interrupt)
    assert 0 < len(stored(store)) <= len(cases)


@pytest.mark.slow
def test_a_collective_too_wide_for_one_agent_runs_across_two(serve: Serve, store: Store) -> None:
    servers = []
    for _ in range(2):
        profiler = Profiler(CpuBackend(1), "cpu")
        profiler.groups.cpu_ranks = 1
        servers.append(serve(profiler))
    pair = KernelCase("all_reduce", "bf16", "", (("degree", 2), ("payload_bytes", 4096)))
    done = collect(store, job(servers, pair))
    assert done.failed == []
    assert [(row.case, row.method, row.variant) for row in store.measurements("cpu")] == [
        (pair, "gloo", "2 nodes")
    ]
