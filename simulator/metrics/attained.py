"""The share of requests that keep every limit by themselves, of replicas that do both and of roles apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.compiler.service import Slo
from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.engine.records import Floats, Records
from servecast.simulator.traffic.workload import Ints, Workload

Run = Records | DisaggregatedRun


@dataclass(frozen=True, slots=True)
class Lives:
    """When each request arrived, had its first token and its last, and how long it waited, shape [requests];
    NaN: never."""

    arrival_s: Floats
    queue_delay_s: Floats
    first_token_s: Floats
    finish_s: Floats
    output_tokens: Ints

    @property
    def finished(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.finish_s)


def lives(found: Run) -> Lives:
    """With roles apart a request begins in the prefill pool and ends in the decode pool."""
    first = found.prefill if isinstance(found, DisaggregatedRun) else found
    return Lives(
        first.arrival_s,
        found.queue_delay_s,
        first.first_token_s,
        found.finish_s,
        found.output_tokens,
    )


def attained(found: Run, slos: Sequence[Slo]) -> NDArray[np.bool_]:
    """Which requests keep every limit by themselves, [requests]; a ``tbt`` limit binds the mean gap."""
    requests = lives(found)
    kept = requests.finished
    for slo in slos:
        kept &= ~(_per_request_s(requests, slo.metric) > slo.limit_s)  # NaN: no gap to judge
    return kept


@dataclass(frozen=True, slots=True)
class Targets:
    """``slos`` bind every request, ``by_class`` those of one priority: there its targets of a metric replace
    those for all."""

    slos: tuple[Slo, ...] = ()
    by_class: tuple[tuple[int, Slo], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.slos or self.by_class)

    def of(self, priority: int) -> tuple[Slo, ...]:
        own = tuple(slo for each, slo in self.by_class if each == priority)
        replaced = {slo.metric for slo in own}
        return (*(slo for slo in self.slos if slo.metric not in replaced), *own)

    def check(self, workload: Workload) -> None:
        """
        Raises:
            UserError: targets of a class that no request is of.
        """
        if not self.by_class:
            return
        if workload.priority is None:
            raise UserError(f"{workload.name}: targets of a class need each request's priority")
        known = np.unique(workload.priority).tolist()
        for priority, _ in self.by_class:
            if priority not in known:
                there = ", ".join(map(str, known))
                raise UserError(
                    f"{workload.name}: no request is of class {priority}; there are {there}"
                )


NO_TARGETS = Targets()


def targets_from(slos: Sequence[Slo]) -> Targets:
    """The same, apart by whom they bind."""
    by_class = tuple((slo.priority, slo) for slo in slos if slo.priority is not None)
    return Targets(tuple(slo for slo in slos if slo.priority is None), by_class)


def bound(slo: Slo, slos: Sequence[Slo], workload: Workload) -> NDArray[np.bool_] | None:
    """Which requests one of ``slos`` binds, [requests]; None: all of them."""
    if slo.priority is not None:
        return np.asarray(workload.priority == slo.priority)
    own = {s.priority for s in slos if s.metric == slo.metric and s.priority is not None}
    if not own or workload.priority is None:
        return None
    return ~np.isin(workload.priority, list(own))


def in_time(found: Run, targets: Targets, workload: Workload) -> NDArray[np.bool_]:
    """Which requests keep every limit that binds them, [requests]."""
    kept = attained(found, targets.slos)
    for priority in {each for each, _ in targets.by_class}:
        mine = workload.priority == priority
        kept = np.where(mine, attained(found, targets.of(priority)), kept)
    return kept


def attained_share(found: Run, slos: Sequence[Slo], workload: Workload) -> float:
    """Of all requests that arrived; those that were rejected keep nothing."""
    return float(in_time(found, targets_from(slos), workload).mean())


def _per_request_s(requests: Lives, metric: str) -> Floats:
    """[requests]"""
    match metric:
        case "queue_delay":
            return requests.queue_delay_s
        case "ttft":
            return requests.first_token_s - requests.arrival_s
        case "e2e":
            return requests.finish_s - requests.arrival_s
        case _:
            gaps = np.where(requests.output_tokens > 1, requests.output_tokens - 1.0, np.nan)
            return np.asarray((requests.finish_s - requests.first_token_s) / gaps)
