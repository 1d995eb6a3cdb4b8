"""Collectives over gloo, between processes of their own, on one agent and across two."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from servecast.agent.client import Agent
from servecast.agent.collective_kernels import COLLECTIVES
from servecast.agent.cpu import CpuBackend, meminfo_bytes
from servecast.agent.messages import (
    Event,
    Group,
    Outcome,
    Phase,
    Placement,
    Rendezvous,
    Samples,
    Settings,
    Status,
)
from servecast.agent.profiler import Profiler
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase

QUICK = Settings(min_samples=3, max_case_s=0.05)
Serve = Callable[..., Agent]


def collective(
    kernel: str, degree: int, payload_bytes: int = 4096, dtype: str = "bf16"
) -> KernelCase:
    return KernelCase(kernel, dtype, "", (("degree", degree), ("payload_bytes", payload_bytes)))


@pytest.fixture
def profiler() -> Iterator[Profiler]:
    profiler = Profiler(CpuBackend(1), "cpu")
    yield profiler
    profiler.close()


def outcome_of(events: Iterator[Event]) -> Outcome:
    *_, last = events
    assert isinstance(last, Outcome)
    return last


def children() -> set[int]:
    """Processes whose parent this is, zombies left out."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == os.getpid() and state != "Z":
                    found.add(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("degree", [2, 4])
def test_every_collective_is_checked_and_measured_between_real_processes(
    profiler: Profiler, degree: int
) -> None:
    before = children()
    for kernel in sorted(COLLECTIVES):
        case = collective(kernel, degree)
        profiler.check(case, QUICK, Placement())
        outcome = outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False))
        assert (outcome.status, outcome.method) == (Status.MEASURED, "gloo"), outcome.message
        assert len(children() - before) == degree  # the group is kept from case to case
    profiler.close()
    assert children() == before


@pytest.mark.slow
def test_a_cancelled_collective_leaves_no_process_behind(profiler: Profiler) -> None:
    before = children()
    case = collective("all_reduce", 2)
    endless = Settings(relative_ci=1e-9, max_samples=100_000, max_case_s=60)
    stopped: list[bool] = []
    events = profiler.profile(case, endless, Placement(), lambda: bool(stopped))
    for event in events:
        if isinstance(event, Samples):
            stopped.append(True)
    assert children() == before


@pytest.mark.slow
def test_a_rank_that_dies_is_a_failed_case_and_the_next_one_works(profiler: Profiler) -> None:
    case = collective("all_reduce", 2)
    before = children()
    outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False))
    os.kill(min(children() - before), 9)
    failed = outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False))
    assert failed.status is Status.FAILED
    assert (
        outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False)).status
        is Status.MEASURED
    )


@pytest.mark.slow
def test_a_collective_that_does_not_fit_is_a_result(profiler: Profiler) -> None:
    if meminfo_bytes("MemAvailable") > 24 << 30:
        pytest.skip("this machine has room for the largest payload of the protocol")
    case = collective("all_gather", 2, payload_bytes=8 << 30)
    outcome = outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False))
    assert outcome.status is Status.OUT_OF_MEMORY
    assert "DeviceOutOfMemoryError: needs 12884901888 bytes, cpu has" in outcome.message


@pytest.mark.slow
def test_a_rank_fills_its_memory_once_for_all_payloads(
    profiler: Profiler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "servecast.agent.collectives")
    for payload_bytes in (4 << 20, 4 << 20, 1 << 20):
        case = collective("all_reduce", 2, payload_bytes=payload_bytes)
        outcome_of(profiler.profile(case, QUICK, Placement(), lambda: False))
    first, second, smaller = (vars(record)["once_s"] for record in caplog.records)
    assert first > second == smaller == 0


@pytest.mark.slow
def test_two_agents_measure_one_collective_together(serve: Serve) -> None:
    first, second = serve(), serve()
    case = collective("all_reduce", 2)
    here = first.profile([case], QUICK, group=Group(2, 0, 1, host="127.0.0.1"))
    assert next(here)[1] is Phase.PREPARING
    address = next(here)[1]
    assert isinstance(address, Rendezvous)
    there = second.profile([case], QUICK, group=Group(2, 1, 1, rendezvous=address.address))
    with_first = outcome_of(event for _, event in there)
    assert with_first.status is Status.JOINED
    assert outcome_of(event for _, event in here).status is Status.MEASURED


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Group(4, 0, 2), "a group of 4 for degree 2"),
        (Group(2, 1, 2), "not 2 from rank 1 of 2"),
        (Group(2, 1, 1), "'' is no HOST:PORT to meet rank 0 at"),
        (Group(2, 1, 1, rendezvous="file:///etc/passwd"), "is no HOST:PORT"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(serve: Serve, group: Group, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        list(serve().profile([collective("all_reduce", 2)], QUICK, group=group))


def test_a_degree_beyond_the_node_is_refused(serve: Serve) -> None:
    with pytest.raises(AgentError, match="this node runs 1 to 8 ranks of a group, not 16"):
        list(serve().profile([collective("all_reduce", 16)], QUICK))


@pytest.mark.slow
def test_ranks_end_with_their_agent_however_it_dies(tmp_path: Path) -> None:
    from servecast.agent.collectives import RankGroup

    pid = os.fork()
    if pid == 0:
        group = RankGroup(Group(2, 0, 2))
        list(group.start((-1, -1), threads=1, stopped=lambda: False))
        (tmp_path / "pids").write_text(" ".join(str(r.process.pid) for r in group.ranks))
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    ranks = [int(text) for text in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{rank}").exists() for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
