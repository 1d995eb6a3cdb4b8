"""Serving modes in which requests differ from step to step, or replicas come and go.

A fleet with any of them runs on the executable specification (`reference.py`), one object for each request: a
thousand requests a second or so. Everything else runs compiled. Formulas: ``docs/serving-modes.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from servecast.compiler.errors import UserError
from servecast.simulator.engine.kv_tiers import KvTier
from servecast.simulator.engine.lifecycle import Autoscaling, NodeLoss
from servecast.simulator.engine.patience import Leaving, Turns
from servecast.simulator.engine.speculation import Speculation


@dataclass(frozen=True, slots=True)
class Modes:
    """All off by default.

    ``lock_step``: so many replicas (data-parallel ranks) at a time step together, each step as long as the
    slowest one's. ``class_queues[p]``: a request of priority p is turned away who finds so many waiting, the
    last for all after it. ``retry``: what a lost replica had is sent again, with the tokens that it brought;
    else it fails. ``ramp_s``: closed-loop clients begin one after the other over so long.
    ``blocking_sends``: a pipeline stage is busy until what it sends is across.

    Raises:
        UserError: no rank, no place in a queue, a loss or a ramp before 0.
    """

    speculation: Speculation | None = None
    lock_step: int = 1
    leaving: Leaving | None = None
    turns: Turns | None = None
    class_queues: tuple[int, ...] = ()
    ramp_s: float = 0.0
    losses: tuple[NodeLoss, ...] = ()
    retry: bool = True
    scaling: Autoscaling | None = None
    tiers: tuple[KvTier, ...] = ()
    blocking_sends: bool = False

    def __post_init__(self) -> None:
        if self.lock_step < 1:
            raise UserError(f"lock_step must be at least 1 rank, got {self.lock_step}")
        if any(places < 0 for places in self.class_queues):
            raise UserError(f"class_queues {self.class_queues}: each must be 0 or more")
        if not self.ramp_s >= 0:
            raise UserError(f"ramp_s must be 0 or more, got {self.ramp_s:g}")

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are on."""
        every = [field.name for field in fields(self)]
        return tuple(name for name in every if getattr(self, name) != getattr(NO_MODES, name))


NO_MODES = Modes()
