"""One case from start to end over a processor that pretends to have a GPU's counters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, repeat

import pytest

from servecast.agent.cpu import CpuBackend
from servecast.agent.messages import Conditions, Outcome, Placement, Settings
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


def outcome(backend: CpuBackend, settings: Settings) -> Outcome:
    *_, last = Profiler(backend, "cpu").profile(CASE, settings, Placement(), lambda: False)
    assert isinstance(last, Outcome)
    assert last.statistics is not None
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
