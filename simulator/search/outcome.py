"""A configuration and what a search found of it, with prefill and decode together or apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.disaggregation import Disaggregated
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.found import Carried, Found, PairCarried
from servecast.simulator.search.pairs import Pairing
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.task import Shape

TablesFor = Callable[[Placement], RuntimeTables]
ShapeOf = Callable[[Placement], Shape]


@dataclass(frozen=True, slots=True)
class Outcome:
    placement: Placement
    candidate: Candidate
    found: Found

    @property
    def placements(self) -> tuple[Placement, ...]:
        return (self.placement,)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return (self.candidate,)

    def serving(self, tables_for: TablesFor, shape_of: ShapeOf) -> Fleet:
        """The deployment of all its replicas."""
        assert isinstance(self.found, Carried)
        tables, shape = tables_for(self.placement), shape_of(self.placement)
        return shape.fleet(tables, self.candidate.setting, self.found.replicas)


@dataclass(frozen=True, slots=True)
class PairOutcome:
    pairing: Pairing
    found: Found

    @property
    def placements(self) -> tuple[Placement, ...]:
        return (self.pairing.prefill, self.pairing.decode)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Of each role, the one whose limits its pool was found best with."""
        assert isinstance(self.found, PairCarried)
        pools = (self.found.prefill, self.found.decode)
        return tuple(
            placement.candidates[pool.candidate]
            for placement, pool in zip(self.placements, pools, strict=True)
        )

    def serving(self, tables_for: TablesFor, shape_of: ShapeOf) -> Disaggregated:
        """The deployment of both roles' replicas."""
        assert isinstance(self.found, PairCarried)
        counts = (self.found.prefill.replicas, self.found.decode.replicas)
        prefill, decode = (
            shape_of(placement).fleet(tables_for(placement), candidate.setting, count)
            for placement, candidate, count in zip(
                self.placements, self.candidates, counts, strict=True
            )
        )
        return Disaggregated(prefill, decode, self.pairing.link)


AnyOutcome = Outcome | PairOutcome
