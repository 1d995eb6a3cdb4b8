"""What a process of a search finds of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from servecast.compiler.service import Slo
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.capacity import Hopeless


@dataclass(frozen=True, slots=True)
class Carried:
    """What a configuration carries: one replica, and the deployment of ``replicas`` for the trace as it is.

    Metrics, seconds by source and ``breaks`` are of the deployment at its capacity ``rate_per_s``, and the
    ``utilisation`` of its GPUs (`energy.Drawing`; None: not known).
    """

    replica_rate_per_s: float
    replicas: int
    rate_per_s: float
    metrics: ReplicaMetrics
    seconds_by_source: tuple[tuple[str, float], ...]
    breaks: tuple[Slo, ...]
    utilisation: float | None = None
    utilisation_at_trace_rate: float | None = None
    goodput_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """One role's replicas at the capacity of both: ``candidate`` of its placement has the limits.

    ``replica_rate_per_s`` is what one replica carries of its role's work alone.
    """

    candidate: int
    replicas: int
    replica_rate_per_s: float
    metrics: ReplicaMetrics
    utilisation: float | None = None
    utilisation_at_trace_rate: float | None = None


@dataclass(frozen=True, slots=True)
class PairCarried:
    """As `Carried`, of prefill and decode pools: ``metrics`` are over the requests' whole lives."""

    prefill: Pool
    decode: Pool
    rate_per_s: float
    metrics: ReplicaMetrics
    seconds_by_source: tuple[tuple[str, float], ...]
    breaks: tuple[Slo, ...]
    goodput_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class TooFewGpus:
    """So many replicas are all that the GPUs make, and they do not keep the targets under the trace.

    Of roles apart: of both, the numbers that carry most, and what they carry for each of them.
    """

    replicas: int
    replica_rate_per_s: float

    @property
    def rate_per_s(self) -> float:
        """What they carry, about."""
        return self.replicas * self.replica_rate_per_s


@dataclass(frozen=True, slots=True)
class Beaten:
    """Worse than a configuration found before; ``by`` says what showed it."""

    by: str


Found = Carried | PairCarried | Hopeless | TooFewGpus | Beaten
