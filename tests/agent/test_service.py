"""The gRPC face over loopback: what is refused and in which words, order, cancelling, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from servecast.agent import wire
from servecast.agent.client import Agent, AgentUnavailableError
from servecast.agent.messages import (
    Conditions,
    Device,
    Event,
    Node,
    Outcome,
    Phase,
    Placement,
    Samples,
    Settings,
    Status,
)
from servecast.agent.server import add_reflection, create_server
from servecast.agent.stopping import Flag, Statistics, StopReason
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.protos import agent_pb2 as pb
from servecast.protos import agent_pb2_grpc

Linear = Callable[..., KernelCase]
Serve = Callable[..., Agent]
QUICK = Settings(min_samples=3, max_case_s=0.05)
NODE = Node("0", "fake", "cpu", "cpu", (Device(0, "fake", "", 1, 1),), (), (), (), 1)


@dataclass
class Scripted:
    """A profiler that runs ``script`` for each case and notes how many cases are inside at once."""

    script: Callable[[KernelCase, Callable[[], bool]], Iterator[Event]]
    inside: list[KernelCase] = field(default_factory=list)

    def describe(self) -> Node:
        return NODE

    def check(self, case: KernelCase, settings: Settings, placement: Placement) -> None: ...

    def close(self) -> None: ...

    def profile(
        self,
        case: KernelCase,
        settings: Settings,
        placement: Placement,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        self.inside.append(case)
        assert self.inside == [case]
        yield from self.script(case, stopped)
        self.inside.remove(case)


def outcomes(events: Iterator[tuple[KernelCase, Event]]) -> list[Outcome]:
    return [event for _, event in events if isinstance(event, Outcome)]


def test_a_linear_layer_is_really_measured(serve: Serve, linear: Linear) -> None:
    events = [event for _, event in serve().profile([linear()], QUICK)]
    samples = [us for event in events if isinstance(event, Samples) for us in event.runtime_us]
    outcome = events[-1]
    assert events[0] is Phase.PREPARING
    assert isinstance(outcome, Outcome)
    assert outcome.statistics is not None
    assert outcome.statistics.n == len(samples) >= 3
    assert outcome.statistics.min_us == min(samples) > 0


def test_cases_are_answered_in_their_order_each_with_one_outcome(
    serve: Serve, linear: Linear
) -> None:
    cases = [linear(rows=rows) for rows in (3, 1, 2)]
    answered = [case for case, event in serve().profile(cases, QUICK) if isinstance(event, Outcome)]
    assert answered == cases


def test_a_node_describes_its_kernels_with_their_axes(serve: Serve) -> None:
    node = serve().describe()
    kernels = {kernel.kernel: kernel for kernel in node.kernels}
    assert (node.backend, node.sku, node.threads) == ("cpu", "cpu", 1)
    assert kernels["linear"].dims == ("rows", "in_features", "out_features")
    assert "bf16" in kernels["linear"].dtypes


def attention(heads: int, kv_heads: int) -> KernelCase:
    sizes = {"batch": 1, "context": 4, "head_dim": 8, "window": 0}
    dims = sizes | {"heads": heads, "kv_heads": kv_heads}
    return KernelCase("attention_decode", "bf16", "bf16", tuple(sorted(dims.items())))


REFUSALS = {
    "kernel": (
        KernelCase("softsort", "bf16", "", ()),
        r"no kernel 'softsort'; this node has: .*linear",
    ),
    "dtype": (
        KernelCase("linear", "nvfp4", "", (("in_features", 2), ("out_features", 2), ("rows", 2))),
        r"linear: no dtype 'nvfp4' on this node: its units are in GPUs of compute 10",
    ),
    "dims": (
        KernelCase("linear", "bf16", "", (("rows", 2),)),
        r"linear wants the dimensions rows, in_features, out_features, not rows$",
    ),
    "zero": (
        KernelCase("linear", "bf16", "", (("in_features", 2), ("out_features", 2), ("rows", 0))),
        r"linear: rows must be between 1 and 1048576, not 0$",
    ),
    "group": (
        attention(heads=8, kv_heads=3),
        r"attention_decode: kv_heads 3 does not divide heads 8$",
    ),
    "top_k": (
        KernelCase(
            "router", "bf16", "", (("experts", 4), ("hidden", 8), ("rows", 1), ("top_k", 5))
        ),
        r"router: top_k 5 exceeds the 4 experts$",
    ),
    "rotary": (
        KernelCase(
            "rope", "bf16", "", (("head_dim", 8), ("heads", 2), ("rotary_dim", 16), ("rows", 1))
        ),
        r"rope: rotary_dim 16 exceeds head_dim 8$",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_case_that_cannot_run_is_refused_in_one_sentence(serve: Serve, what: str) -> None:
    case, message = REFUSALS[what]
    with pytest.raises(AgentError, match=rf"^agent 127.0.0.1:\d+: {message}"):
        list(serve().profile([case], QUICK))


def test_a_bad_case_is_refused_before_the_good_ones_run(serve: Serve, linear: Linear) -> None:
    seen: list[Event] = []
    with pytest.raises(AgentError, match="rows must be"):
        seen.extend(event for _, event in serve().profile([linear(), linear(rows=0)], QUICK))
    assert seen == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(method="magic"), "no method 'magic'; this node has: cpu_eager"),
        (Settings(relative_ci=2.0), "relative_ci must be between 0 and 1, not 2.0"),
        (Settings(max_case_s=1e9), "max_case_s may be 60 and max_samples 100000 at most"),
    ],
)
def test_settings_beyond_the_limits_are_refused(
    serve: Serve, linear: Linear, settings: Settings, message: str
) -> None:
    with pytest.raises(AgentError, match=message):
        list(serve().profile([linear()], settings))


def test_no_cases_and_too_many_cases_are_refused(serve: Serve, linear: Linear) -> None:
    agent = serve()
    for count in (0, 257):
        with pytest.raises(AgentError, match=f"a request has 1 to 256 cases, not {count}"):
            list(agent.profile([linear()] * count))


def test_a_device_that_is_not_there_is_refused(serve: Serve, linear: Linear) -> None:
    with pytest.raises(AgentError, match="no device 3; this node has 1"):
        list(serve().profile([linear()], device=3))


def test_a_case_that_does_not_fit_is_an_outcome_and_the_agent_lives_on(
    serve: Serve, linear: Linear
) -> None:
    agent = serve()
    huge = linear(in_features=1 << 20, out_features=1 << 20, rows=1)
    assert [outcome.status for outcome in outcomes(agent.profile([huge, linear()], QUICK))] == [
        Status.OUT_OF_MEMORY,
        Status.MEASURED,
    ]


@pytest.mark.parametrize(("version", "older"), [(2, "agent"), (0, "caller")])
def test_another_protocol_version_is_refused_with_who_is_older(
    serve: Serve, version: int, older: str
) -> None:
    agent = serve()
    with grpc.insecure_channel(agent.address) as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Describe(pb.DescribeRequest(protocol_version=version), timeout=5)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == (
        f"the agent speaks protocol 1, the caller {version}: upgrade the {older}"
    )


@pytest.mark.parametrize("timeout_s", [None, 50_000.0])
def test_a_call_that_would_wait_for_ever_is_refused(serve: Serve, timeout_s: float | None) -> None:
    with grpc.insecure_channel(serve().address) as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Describe(pb.DescribeRequest(protocol_version=1), timeout=timeout_s)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "a call needs a deadline, 43200 s from now at most"


def test_two_callers_never_measure_at_once(serve: Serve, linear: Linear) -> None:
    def script(case: KernelCase, stopped: Callable[[], bool]) -> Iterator[Event]:
        time.sleep(0.05)
        yield Outcome(Status.FAILED)

    agent = serve(Scripted(script))
    calls = [agent.profile([linear(rows=rows)]) for rows in (1, 2, 3)]
    done: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda c: done.extend(outcomes(c)), args=(c,)) for c in calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.status for outcome in done] == 3 * [Status.FAILED]  # none met another inside


def test_a_caller_that_waits_is_told_so(serve: Serve, linear: Linear) -> None:
    release = threading.Event()

    def script(case: KernelCase, stopped: Callable[[], bool]) -> Iterator[Event]:
        yield Phase.PREPARING
        release.wait(5)
        yield Outcome(Status.FAILED)

    agent = serve(Scripted(script))
    first = agent.profile([linear()])
    assert next(first)[1] is Phase.PREPARING
    second = agent.profile([linear()])
    assert next(second)[1] is Phase.QUEUED
    release.set()
    assert len(outcomes(first)) == len(outcomes(second)) == 1


def test_cancelling_frees_the_device_for_the_next_caller(serve: Serve, linear: Linear) -> None:
    def script(case: KernelCase, stopped: Callable[[], bool]) -> Iterator[Event]:
        while dict(case.dims)["rows"] == 1 and not stopped():
            time.sleep(0.001)
            yield Samples((1.0,))
        yield Outcome(Status.FAILED)

    agent = serve(Scripted(script))
    endless = agent.profile([linear(rows=1)])
    next(endless)
    endless.close()
    assert len(outcomes(agent.profile([linear(rows=2)], timeout_s=5))) == 1


def test_a_stopping_agent_finishes_its_case_and_hands_the_rest_back(linear: Linear) -> None:
    begun, release = threading.Event(), threading.Event()

    def script(case: KernelCase, stopped: Callable[[], bool]) -> Iterator[Event]:
        begun.set()
        release.wait(5)
        yield Outcome(Status.FAILED)

    server = create_server(Scripted(script), "127.0.0.1", 0)
    server.start()
    with Agent(f"127.0.0.1:{server.port}") as agent:
        stream = agent.profile([linear(rows=1), linear(rows=2)])
        stopper = threading.Thread(target=lambda: begun.wait(5) and server.stop(grace_s=5))
        stopper.start()
        threading.Timer(0.2, release.set).start()
        seen = []
        with pytest.raises(AgentUnavailableError, match="the agent is stopping; cases left: 1"):
            seen.extend(event for _, event in stream)
        stopper.join()
    assert len(seen) == 1


def test_a_missed_deadline_is_an_unavailable_agent(serve: Serve, linear: Linear) -> None:
    def script(case: KernelCase, stopped: Callable[[], bool]) -> Iterator[Event]:
        while not stopped():
            time.sleep(0.01)
        yield from ()

    with pytest.raises(AgentUnavailableError, match=r"did not answer in time$"):
        list(serve(Scripted(script)).profile([linear()], timeout_s=0.2))


def test_an_agent_that_is_not_there_is_one_sentence() -> None:
    with (
        Agent("127.0.0.1:1") as agent,
        pytest.raises(
            AgentUnavailableError,
            match=r"^agent 127.0.0.1:1 does not answer; is `agent serve` running there\?$",
        ),
    ):
        agent.describe()


def test_health_is_serving_without_a_word_about_measurements(serve: Serve) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(serve().address) as channel:
        request = health_pb2.HealthCheckRequest(service="servecast.agent.v1.Agent")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_port_in_use_is_one_sentence(serve: Serve) -> None:
    port = int(serve().address.rpartition(":")[2])
    with pytest.raises(
        AgentError, match=rf"^cannot listen on 127.0.0.1:{port}: the address is taken"
    ):
        create_server(Scripted(lambda case, stopped: iter(())), "127.0.0.1", port)


def test_an_outcome_with_every_field_survives_the_wire_unchanged() -> None:
    outcome = Outcome(
        Status.MEASURED,
        message="a word",
        statistics=Statistics(3, 2.0, 1.0, 1.0, 2.0, 3.0),
        stop_reason=StopReason.MAX_TIME,
        method="cuda_graph",
        launches_per_sample=64,
        rotated_buffers=3,
        host_launch_us=4.5,
        energy_j=0.25,
        flags=(Flag.DRIFTING, Flag.THROTTLED),
        before=Conditions(1980.0, 2619.0, 41.0, 310.5, (), 0.5, 0.01),
        after=Conditions(1500.0, throttle_reasons=("sw_power_cap",)),
        library="flashinfer",
    )
    assert wire.event_from_wire(wire.event_to_wire(7, outcome)) == outcome


def test_node_and_outcome_survive_the_wire_unchanged(serve: Serve, linear: Linear) -> None:
    agent = serve()
    node = agent.describe()
    assert wire.node_from_wire(wire.node_to_wire(node)) == node
    for outcome in outcomes(agent.profile([linear()], QUICK)):
        assert wire.event_from_wire(wire.event_to_wire(0, outcome)) == outcome


def test_reflection_lists_the_services_where_it_is_asked_for(serve: Serve) -> None:
    pb2 = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
    pb2_grpc = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2_grpc")
    server = create_server(Scripted(lambda case, stopped: iter(())), "127.0.0.1", 0)
    add_reflection(server)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = iter([pb2.ServerReflectionRequest(list_services="")])
        (answer,) = pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask, timeout=5)
    names = {service.name for service in answer.list_services_response.service}
    assert "servecast.agent.v1.Agent" in names
    server.stop(0.0)
