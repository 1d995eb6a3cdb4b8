"""Clients: those that leave before their answer is whole, and those that come back with another turn."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.engine.mode_text import fields_of, number
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Floats

LEFT, LOST, SESSION_ENDED = 3, 4, 5
"""Why a request is not served, besides `state.TURNED_AWAY` and `GAVE_UP`: its client left; its replica was
lost; a turn of its session before it was not answered."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Who waits longer than ``timeout_s`` for the whole answer leaves; so does a ``share`` of the clients
    after a time from arrival that is exponential with mean ``mean_s``. The engine drops their requests.

    Raises:
        UserError: no such share, or no time.
    """

    timeout_s: float = inf
    share: float = 0.0
    mean_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(
                f"the share of clients that leave must be from 0 to 1, got {self.share:g}"
            )
        if not self.timeout_s > 0 or not self.mean_s > 0:
            raise UserError(
                f"clients leave after timeout {self.timeout_s:g} s, mean {self.mean_s:g} s: "
                "both must be above 0"
            )

    def after_s(self, requests: int) -> Floats:
        """From arrival to leaving, [requests]; infinite: stays. The same in every run."""
        rng = stream(0, "leaving")
        leaves = rng.random(requests) < self.share
        drawn_s = rng.exponential(self.mean_s, requests)
        return np.minimum(np.where(leaves, drawn_s, inf), self.timeout_s)


@dataclass(frozen=True, slots=True)
class Turns:
    """A session's next request comes so long after its last answer: gamma of mean ``think_s`` and coefficient
    of variation ``cv`` (0: always the mean, 1: exponential). Trace times count for first turns only.

    Raises:
        UserError: a negative time or variation.
    """

    think_s: float = 0.0
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not self.think_s >= 0 or not self.cv >= 0:
            raise UserError(
                f"think time {self.think_s:g} s, CV {self.cv:g}: both must be 0 or more"
            )

    def before_s(self, requests: int) -> Floats:
        """Think time before each request, [requests]. The same in every run."""
        if self.cv < 1e-6 or self.think_s == 0:
            return np.full(requests, self.think_s)
        shape = self.cv**-2
        return stream(0, "think").gamma(shape, self.think_s / shape, requests)


def parse_leaving(text: str) -> Leaving:
    """``share=0.1,mean=5``, ``timeout=30``, or all three.

    Raises:
        UserError: as `Leaving`, and an unknown part.
    """
    parts = fields_of("cancellation", text, ("timeout", "share", "mean"))
    said = {"timeout": "timeout_s", "share": "share", "mean": "mean_s"}
    return Leaving(**{said[name]: number(name, value) for name, value in parts.items()})
