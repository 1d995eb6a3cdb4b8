"""One case from start to end over a processor that pretends to have a GPU's counters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, repeat

import pytest
import torch

from servecast.agent.cpu import CpuBackend
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.messages import Conditions, Outcome, Placement, Settings, Status
from servecast.agent.profiler import Profiler
from servecast.agent.stopping import Flag
from servecast.compiler.kernels import KernelCase

CASE = KernelCase("add", "fp32", "", (("rows", 4), ("width", 64)))
LONG = Settings(relative_ci=1e-9, max_samples=100_000, max_case_s=0.25)
SHORT = Settings(min_samples=2, max_case_s=0.001)


@dataclass(frozen=True, slots=True)
class Counted(CpuBackend):
    """A processor with an energy counter, and reasons to be slow that are read around each case."""

    joules: Iterator[float] = field(default_factory=lambda: count(100.0, 6.0))
    reasons: Iterator[tuple[str, ...]] = field(default_factory=lambda: repeat(()))

    def energy_j(self, index: int) -> float:  # type: ignore[override]  # a processor's is None
        return next(self.joules)

    def conditions(self, index: int) -> Conditions:
        return Conditions(throttle_reasons=next(self.reasons))


def outcome(backend: CpuBackend, settings: Settings, case: KernelCase = CASE) -> Outcome:
    *_, last = Profiler(backend, "cpu").profile(case, settings, Placement(), lambda: False)
    assert isinstance(last, Outcome)
    return last


def test_the_energy_of_a_launch_is_the_counters_rise_over_all_launches() -> None:
    found = outcome(Counted(1), LONG)
    assert found.statistics is not None
    launches = found.statistics.n * found.launches_per_sample
    assert found.energy_j == pytest.approx(6.0 / launches)


def test_a_case_too_short_for_the_counter_has_no_energy() -> None:
    assert outcome(Counted(1), SHORT).energy_j is None
    assert outcome(CpuBackend(1), LONG).energy_j is None


@pytest.mark.parametrize("reasons", [[("sw_power_cap",), ()], [(), ("hw_thermal_slowdown",)]])
def test_a_reason_to_be_slow_before_or_after_flags_the_case(reasons: list[tuple[str, ...]]) -> None:
    found = outcome(Counted(1, reasons=iter(reasons)), SHORT)
    assert Flag.THROTTLED in found.flags
    assert [found.before.throttle_reasons, found.after.throttle_reasons] == reasons


def test_without_a_reason_nothing_is_flagged_as_throttled() -> None:
    assert Flag.THROTTLED not in outcome(Counted(1), SHORT).flags


@dataclass(frozen=True, slots=True)
class Small(CpuBackend):
    """A processor with 60 MiB, of which its pool's are not free."""

    def buffers(self, index: int) -> Buffers:
        free_bytes = (60 << 20) - self.pool.held_bytes
        return Buffers(torch.device("cpu"), free_bytes, 1 << 20, self.pool)


def sum_of(dtype: str, rows: int) -> KernelCase:
    """The addition of two tensors [rows, 4096], of 8 KiB a row in bf16."""
    return KernelCase("add", dtype, "", (("rows", rows), ("width", 4096)))


def test_what_earlier_cases_left_makes_room_for_a_case_that_fits_without_it() -> None:
    backend = Small(1)
    assert outcome(backend, SHORT, sum_of("bf16", 1024)).status is Status.MEASURED
    assert torch.bfloat16 in backend.pool.formats
    assert outcome(backend, SHORT, sum_of("fp32", 1024)).status is Status.MEASURED  # 48 MiB
    assert backend.pool.formats == {torch.float32}


def test_a_case_that_never_fits_is_out_of_memory_and_what_others_use_stays() -> None:
    backend = Small(1)
    outcome(backend, SHORT, sum_of("bf16", 1024))
    found = outcome(backend, SHORT, sum_of("fp32", 8192))
    assert found.status is Status.OUT_OF_MEMORY
    assert "needs 134217728 bytes, cpu has" in found.message
    assert backend.pool.formats == {torch.bfloat16}
