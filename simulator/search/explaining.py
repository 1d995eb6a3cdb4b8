"""Any configuration of an answer explained in full: searched again, alone, and asked what the best is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servecast.compiler.errors import UserError
from servecast.estimator.load import TableLoader
from servecast.simulator.search.insight import Insight
from servecast.simulator.search.outcome import AnyOutcome, Outcome, PairOutcome
from servecast.simulator.search.plan import long_enough
from servecast.simulator.search.pool import Here
from servecast.simulator.search.question import Question
from servecast.simulator.search.result import identity_of, rank
from servecast.simulator.search.rows import Row
from servecast.simulator.search.searching import Means, Searching
from servecast.simulator.search.space import Space
from servecast.simulator.traffic.workload import Workload


@dataclass(frozen=True, slots=True)
class Explaining:
    """One question under one trace, to explain its configurations with."""

    question: Question
    workload: Workload
    loader: TableLoader

    def explanation(self, row: Row) -> Row:
        """What the answer has of its best (``explanation``), and what binds, of the configuration of ``row``.

        Raises:
            UserError: there is no such configuration in the space, or it does not carry the trace any more.
        """
        searching = self._alone(row)
        pool = Here(searching.demand)
        searching.outcomes.extend(searching.outcomes_from(pool))
        question = self.question
        found = rank(searching.outcomes, (), searching.demand, question.market, question.objective)
        if not found.ranked:
            raise UserError(f"{_name(row)}: {found.infeasible[0]['reason']}")
        insight = Insight(
            pool,
            searching.demand,
            searching.kept_tables_for,
            searching.shape_of,
            question.balanced,
        )
        mine = found.ranked[0]
        told = insight.explanation_of(found.outcomes[0], mine)
        return {"qps": mine["qps"], "binds": mine["binds"], **told}

    def _alone(self, row: Row) -> Searching:
        """A search of this configuration and no other."""
        question, tokens = self.question, self.workload.mean_sequence_tokens
        demand = question.demand(self.workload, long_enough(self.workload, question.seed))
        means = Means(self.loader, Here, lambda *_: None, Path())
        whole = Searching(
            question, question.space(tokens), demand, means, question.pairings(tokens).kept
        )
        asked = next((each for each in whole.asked() if _is_of(identity_of(each), row)), None)
        if asked is None:
            raise UserError(f"{_name(row)} is not in the space that the search's command asks for")
        return replace(whole, **_space_of(asked))


def _space_of(asked: AnyOutcome) -> dict[str, Any]:
    if isinstance(asked, PairOutcome):
        return {"space": Space((), ()), "pairings": (asked.pairing,)}
    assert isinstance(asked, Outcome)
    placement = replace(asked.placement, candidates=(asked.candidate,))
    return {"space": Space((placement,), ()), "pairings": ()}


def _is_of(identity: Row, row: Row) -> bool:
    """Whether a row has all that tells a configuration; what is found of it alone says None there."""
    for name, value in identity.items():
        if isinstance(value, dict):
            if not (isinstance(row.get(name), dict) and _is_of(value, row[name])):
                return False
        elif value is not None and row.get(name) != value:
            return False
    return True


def _name(row: Row) -> str:
    return f"{row['sku']} tp={row['tp']} pp={row['pp']}"
