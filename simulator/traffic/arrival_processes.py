"""Arrival processes by name, as ``--arrivals`` takes them: ``poisson``, ``gamma:cv=2``, ``mmpp:burst=8``.

Those whose rate changes with time are Poisson processes of rate 1, stretched: the n-th request arrives when
the integral of the rate reaches the n-th arrival of the unit process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from servecast.compiler.errors import UserError
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.traffic.arrivals import MAX_CV, gamma_arrivals, stream
from servecast.simulator.traffic.workload import Floats, Workload

MAX_BURST = 1e4
MAX_PERIOD_S = 1e8
BISECTIONS = 60
"""Halve a period of any length to below a float's resolution."""


class ArrivalProcess(Protocol):
    def draw(self, num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
        """Arrival times [num_requests] from 0, at that mean rate in the long run."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals."""

    def draw(self, num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
        return Gamma(1.0).draw(num_requests, rate_per_s, rng)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gamma gaps of coefficient of variation ``cv``; the sample's mean rate is exact."""

    cv: float = 2.0

    def __post_init__(self) -> None:
        _check("gamma", "cv", self.cv, 0, MAX_CV)

    def draw(self, num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
        arrival_s = gamma_arrivals(num_requests, rate_per_s, self.cv, rng)
        span_s = arrival_s[-1]
        return arrival_s * ((num_requests - 1) / (span_s * rate_per_s)) if span_s else arrival_s


@dataclass(frozen=True, slots=True)
class MarkovModulated:
    """Poisson arrivals at two rates: ``burst`` times the quiet one while busy.

    Busy and quiet spells are exponential with means ``busy_s`` and ``quiet_s``; the first is drawn from
    their long-run shares. SOURCE: Fischer and Meier-Hellstern 1993, The MMPP cookbook.
    """

    burst: float = 5.0
    busy_s: float = 30.0
    quiet_s: float = 270.0

    def __post_init__(self) -> None:
        _check("mmpp", "burst", self.burst, 1, MAX_BURST)
        _check("mmpp", "busy_s", self.busy_s, 1e-3, MAX_PERIOD_S)
        _check("mmpp", "quiet_s", self.quiet_s, 1e-3, MAX_PERIOD_S)

    def draw(self, num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
        unit = _unit_arrivals(num_requests, rate_per_s, rng)
        cycle_s = self.busy_s + self.quiet_s
        quiet_per_s = rate_per_s * cycle_s / (self.quiet_s + self.burst * self.busy_s)
        busy = bool(rng.random() * cycle_s < self.busy_s)
        ends_s, reached = [0.0], [0.0]
        while reached[-1] < unit[-1]:
            spell_s = rng.exponential(self.busy_s if busy else self.quiet_s)
            ends_s.append(ends_s[-1] + spell_s)
            reached.append(reached[-1] + spell_s * quiet_per_s * (self.burst if busy else 1.0))
            busy = not busy
        return np.asarray(np.interp(unit, reached, ends_s), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Diurnal:
    """Poisson arrivals whose rate goes as a cosine from trough to ``peak`` times its mean and back.

    Starts in the trough. The rate at t is ``rate (1 - (peak - 1) cos(2 pi t / period_s))``.
    """

    peak: float = 1.8
    period_s: float = 86_400.0

    def __post_init__(self) -> None:
        _check("diurnal", "peak", self.peak, 1, 2)
        _check("diurnal", "period_s", self.period_s, 1e-3, MAX_PERIOD_S)

    def draw(self, num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
        unit_s = _unit_arrivals(num_requests, rate_per_s, rng) / rate_per_s
        swing_s = (self.peak - 1) * self.period_s / (2 * np.pi)
        low, high = np.maximum(unit_s - swing_s, 0.0), unit_s + swing_s
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            early = middle - swing_s * np.sin(2 * np.pi * middle / self.period_s) < unit_s
            low, high = np.where(early, middle, low), np.where(early, high, middle)
        arrival_s = np.maximum.accumulate((low + high) / 2)
        return np.asarray(arrival_s - arrival_s[0], dtype=np.float64)


PROCESSES: dict[str, Callable[..., ArrivalProcess]] = {
    "poisson": Poisson,
    "gamma": Gamma,
    "mmpp": MarkovModulated,
    "diurnal": Diurnal,
}


def with_arrivals(
    workload: Workload, rate_per_s: float, process: ArrivalProcess, seed: int
) -> Workload:
    """The same requests in the same order at new times."""
    arrival_s = process.draw(len(workload), rate_per_s, stream(seed, "arrivals"))
    return replace(workload, arrival_s=arrival_s)


def parse_arrivals(text: str) -> ArrivalProcess:
    """The process of ``name`` or ``name:parameter=value,parameter=value``.

    Raises:
        UserError: an unknown name or parameter, or a value out of its range.
    """
    name, _, rest = text.strip().partition(":")
    if name not in PROCESSES:
        known = ", ".join(PROCESSES)
        hint = did_you_mean(name, PROCESSES)
        raise UserError(f"--arrivals {text!r}: no process {name!r}{hint}; there are {known}")
    known_parameters = _parameters(name)
    values: dict[str, float] = {}
    for pair in filter(None, rest.split(",")):
        parameter, _, value = (part.strip() for part in pair.partition("="))
        if parameter not in known_parameters:
            takes = ", ".join(known_parameters) or "no parameters"
            hint = did_you_mean(parameter, known_parameters)
            raise UserError(f"--arrivals {text!r}: {name} takes {takes}, not {parameter!r}{hint}")
        try:
            values[parameter] = float(value)
        except ValueError:
            raise UserError(f"--arrivals {text!r}: {parameter} {value!r} is not a number") from None
    return PROCESSES[name](**values)


def _parameters(name: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(PROCESSES[name]))  # type: ignore[arg-type]  # dataclasses all


def _check(process: str, parameter: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(
            f"--arrivals {process}: {parameter} {value:g} must be between {least:g} and {most:g}"
        )


def _unit_arrivals(num_requests: int, rate_per_s: float, rng: np.random.Generator) -> Floats:
    """A Poisson process of rate 1 from 0; the rate asked for is only checked."""
    if not 0 < rate_per_s < np.inf:
        raise UserError(f"arrival rate {rate_per_s:g} must be above 0 requests per second")
    return gamma_arrivals(num_requests, 1.0, 1.0, rng)
