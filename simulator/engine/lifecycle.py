"""Replicas that come and go: lost nodes and restarts, and autoscaling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil

from servecast.compiler.errors import UserError
from servecast.simulator.engine.mode_text import fields_of, number, whole

MOST_REPLICAS = 4096
_LOSS = re.compile(r"(\d+)@([^+]+)\+(.+)")


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """The replica is lost at ``at_s`` and takes requests again ``down_s`` later, its caches empty."""

    replica: int
    at_s: float
    down_s: float


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """As many replicas as requests that are out fill to ``target`` each, between ``least`` and ``most``.

    Looked at every ``interval_s``. A new replica is paid from when it was asked for, and takes requests
    ``provision_s`` later. One goes only if so few were enough for ``hold_s``, and finishes what it has.
    SOURCE: the Kubernetes horizontal pod autoscaler (desiredReplicas, stabilizationWindowSeconds).

    Raises:
        UserError: bounds or times that cannot be.
    """

    most: int
    least: int = 1
    target: float = 64
    interval_s: float = 15.0
    provision_s: float = 120.0
    hold_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise UserError(
                f"autoscaling from {self.least} to {self.most} replicas: at least 1, rising"
            )
        if not self.target > 0 or not self.interval_s > 0:
            raise UserError(
                f"autoscaling with target {self.target:g} every {self.interval_s:g} s: both must be above 0"
            )

    def wanted(self, out: int) -> int:
        """Replicas for so many requests."""
        return min(max(ceil(out / self.target), self.least), self.most)


def parse_loss(text: str) -> NodeLoss:
    """``replica@seconds+seconds`` without it.

    Raises:
        UserError: it is not of that form.
    """
    found = _LOSS.fullmatch(text)
    if not found:
        raise UserError(f"lost replica {text!r}: write replica@seconds+seconds down, as 0@120+60")
    replica, at, down = found.groups()
    return NodeLoss(
        whole("a lost replica", replica, MOST_REPLICAS),
        number("the loss's time", at),
        number("the time down", down),
    )


def parse_autoscaling(text: str) -> Autoscaling:
    """``most=8,least=1,target=64,interval=15,provision=120,hold=300``; all but ``most`` have these defaults.

    Raises:
        UserError: as `Autoscaling`, and an unknown part or no ``most``.
    """
    names = ("most", "least", "target", "interval", "provision", "hold")
    parts = fields_of("autoscaling", text, names)
    if "most" not in parts:
        raise UserError(f"autoscaling {text!r}: say most=, the replicas that there can be")
    return Autoscaling(
        most=whole("most", parts["most"], MOST_REPLICAS),
        least=whole("least", parts.get("least", "1"), MOST_REPLICAS),
        target=number("target", parts.get("target", "64")),
        interval_s=number("interval", parts.get("interval", "15")),
        provision_s=number("provision", parts.get("provision", "120")),
        hold_s=number("hold", parts.get("hold", "300")),
    )
