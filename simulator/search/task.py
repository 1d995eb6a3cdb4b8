"""What a process of a search is given: the demand, and the configurations to carry it with."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.metrics.energy import Drawing
from servecast.simulator.traffic.workload import Workload


@dataclass(frozen=True, slots=True)
class Demand:
    """The trace to carry, the workload to find capacities with, the targets, and what else is asked for.

    ``attainment``: instead of every target's percentile, this share of requests keeps all limits by itself.
    """

    trace: Workload
    searched: Workload
    slos: tuple[Slo, ...]
    attainment: float | None = None
    energy: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What a candidate sets beside its placement."""

    limits: EngineLimits
    policy: str
    router: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A replica's data-parallel ranks, each with its scheduler and cache, and what replicas cost.

    ``usd_per_hour`` and ``costs`` (in the objective's unit) are of 1, 2, … replicas, as many as there can be.
    ``drawing``: what tells the power of a rank's GPUs, where that is asked for.
    """

    dp: int
    usd_per_hour: tuple[float, ...]
    costs: tuple[float, ...]
    drawing: Drawing | None = None

    @property
    def most(self) -> int:
        return len(self.usd_per_hour)

    def fleet(self, tables: RuntimeTables, setting: Setting, replicas: int) -> Fleet:
        return Fleet(tables, setting.limits, replicas * self.dp, setting.router, setting.policy)


@dataclass(frozen=True, slots=True)
class Stake:
    """What the best configuration so far has: another must reach its value and not exceed its cost."""

    qps_per_usd_hour: float = 0.0
    cost: float = inf


NO_STAKE = Stake()
