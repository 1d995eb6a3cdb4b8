"""What a search looks for, and how its configurations order by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.search.task import Stake

Row = dict[str, Any]
GOODPUT_SHARE = 0.9
"""Of requests that keep all targets by themselves, at a goodput capacity (DistServe, Zhong et al. 2024)."""


@dataclass(frozen=True, slots=True)
class Objective:
    """``key`` is the figure of a ranked configuration; ``says`` what the best one has."""

    name: str
    key: str
    higher_is_better: bool
    says: str

    def stake(self, row: Row) -> Stake:
        """What another configuration must have to come before ``row``."""
        if self.higher_is_better:  # requests in time are no more than requests
            return Stake(qps_per_usd_hour=self.value(row))
        return Stake(cost=self.value(row))

    def least_cost(self, sku: Sku, gpus: int) -> float:
        """No deployment of so many GPUs has less, in the objective's unit."""
        match self.name:
            case "gpus":
                return gpus
            case "energy":
                return gpus * sku.power_idle_w
            case _:
                return gpus * sku.usd_per_hour

    def json(self) -> Row:
        better = "higher" if self.higher_is_better else "lower"
        return {"name": self.name, "key": self.key, "better": better, "says": self.says}

    def value(self, row: Row) -> float:
        return float(row[self.key])

    def order(self, row: Row) -> tuple[float, ...]:
        """The best first; equal ones by requests per dollar, then by fewer GPUs."""
        value = -self.value(row) if self.higher_is_better else self.value(row)
        return (value, -row["qps_per_usd_hour"], row["gpus"])

    def ratio(self, row: Row, best: Row) -> float:
        """1 for the best, below 1 for the others."""
        mine, its = self.value(row), self.value(best)
        return mine / its if self.higher_is_better else its / mine


OBJECTIVES = {
    each.name: each
    for each in (
        Objective("qps_per_usd", "qps_per_usd_hour", True, "most requests per dollar"),
        Objective("cost", "usd_per_hour", False, "fewest dollars an hour for the trace"),
        Objective("gpus", "gpus", False, "fewest GPUs for the trace"),
        Objective("energy", "watts_at_trace_rate", False, "least power for the trace"),
        Objective("goodput", "goodput_per_usd_hour", True, "most requests in time per dollar"),
    )
}


def objective_named(name: str) -> Objective:
    """
    Raises:
        UserError: there is none.
    """
    if name not in OBJECTIVES:
        hint = did_you_mean(name, OBJECTIVES)
        raise UserError(f"no objective {name!r}{hint}; there are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
