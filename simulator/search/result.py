"""The answer as one JSON object, documented in ``docs/results.md``. Pure: outcomes in, dictionaries out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from servecast.simulator.search.capacity import Hopeless
from servecast.simulator.search.confidence import CONTENDER, MAX_CONTENDERS
from servecast.simulator.search.found import Beaten, Carried, PairCarried, TooFewGpus
from servecast.simulator.search.market import Market
from servecast.simulator.search.objective import Objective
from servecast.simulator.search.outcome import AnyOutcome, Outcome, PairOutcome
from servecast.simulator.search.pair_rows import pair_identity, pair_row, pair_too_few_reason
from servecast.simulator.search.rows import (
    Row,
    carried_row,
    hopeless_reason,
    identity,
    too_few_reason,
)
from servecast.simulator.search.space import Infeasible
from servecast.simulator.search.task import Demand

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Ranking:
    """``outcomes`` are those behind the rows of ``ranked``, in the same order.

    Configurations of which measurements bear less than GROUNDED of the time come after all others: what
    is estimated from a datasheet alone does not lead where something measured serves.
    """

    ranked: tuple[Row, ...]
    infeasible: tuple[Row, ...]
    outcomes: tuple[AnyOutcome, ...]
    objective: Objective
    beaten: Mapping[str, int]  # what showed it, and how often, where only the best was searched
    complete: bool = True
    ties: tuple[Row, ...] = ()
    explanation: Row | None = None
    sensitivity: Row | None = None

    @property
    def near(self) -> tuple[AnyOutcome, ...]:
        """The first ones: near enough to the best to ask whether they can be told from it."""
        best = self.ranked[0] if self.ranked else {}
        return tuple(
            outcome
            for row, outcome in zip(self.ranked, self.outcomes, strict=True)
            if self.objective.ratio(row, best) >= CONTENDER and row["grounded"] == best["grounded"]
        )

    @property
    def contenders(self) -> tuple[AnyOutcome, ...]:
        """Those of them that are asked."""
        return self.near[:MAX_CONTENDERS]

    @property
    def undrawn(self) -> int:
        """How many of those that are near were not drawn: others of their kind speak for them."""
        return sum(row["qps_draws"] is None for row in self.ranked[: len(self.near)])

    def with_contenders(self, rows: Sequence[Row], ties: Sequence[Row]) -> Ranking:
        """With what draws say of the first rows, or of all."""
        return replace(self, ranked=(*rows, *self.ranked[len(rows) :]), ties=tuple(ties))


def rank(
    outcomes: Iterable[AnyOutcome],
    refused: Iterable[Infeasible],
    demand: Demand,
    market: Market,
    objective: Objective,
) -> Ranking:
    """The best first; equal ones by requests per dollar, fewer GPUs, then by name, so that order is total."""
    ranked: list[tuple[Row, AnyOutcome]] = []
    beaten: Counter[str] = Counter()
    misses = [{**asdict(miss), "misses": None, "times": None} for miss in refused]
    for outcome in outcomes:
        found = outcome.found
        if isinstance(found, Hopeless):
            misses.append(_miss(outcome, hopeless_reason(found), "target", found.distance))
        elif isinstance(found, Beaten):
            beaten[found.by] += 1
        elif isinstance(found, TooFewGpus):
            short = demand.trace.rate_per_s / found.rate_per_s
            reason = _too_few_reason(outcome, demand, market)
            misses.append(_miss(outcome, reason, "rate", short))
        else:
            ranked.append((row_of(outcome, demand, market), outcome))
    ranked.sort(key=lambda pair: _rank_key(pair[0], objective))
    misses.sort(key=_name)
    if not ranked:  # the nearest miss first: it says what would have to give
        misses.sort(key=distance)
    rows, behind = tuple(row for row, _ in ranked), tuple(outcome for _, outcome in ranked)
    return Ranking(rows, tuple(misses), behind, objective, beaten)


def distance(miss: Row) -> tuple[int, float]:
    """What keeps the targets at a lower rate is nearer than what keeps them at none, then by how many times
    each falls short; what is refused has no distance."""
    kind = {"rate": 0, "target": 1}.get(miss.get("misses") or "", 2)
    times = miss.get("times")
    return kind, inf if times is None else times


def row_of(outcome: AnyOutcome, demand: Demand, market: Market) -> Row:
    """Of an outcome that carries the trace."""
    match outcome:
        case Outcome(found=Carried() as found):
            return carried_row(outcome, found, demand, market)
        case PairOutcome(found=PairCarried() as found):
            return pair_row(outcome, found, demand, market)
    raise ValueError(f"{type(outcome.found).__name__} has no row")


def identity_of(outcome: AnyOutcome) -> Row:
    """What tells it from all others before it is searched."""
    if isinstance(outcome, PairOutcome):
        return pair_identity(outcome.pairing)
    return identity(outcome.placement, outcome.candidate)


def _too_few_reason(outcome: AnyOutcome, demand: Demand, market: Market) -> str:
    if isinstance(outcome, PairOutcome):
        return pair_too_few_reason(outcome, demand, market)
    return too_few_reason(outcome, demand, market)


def _miss(outcome: AnyOutcome, reason: str, misses: str, times: float) -> Row:
    far = {"misses": misses, "times": times if times < inf else None}
    return {**identity_of(outcome), "reason": reason, **far}


def _rank_key(row: Row, objective: Objective) -> tuple[Any, ...]:
    return (not row["grounded"], *objective.order(row), *_name(row))


def _name(row: Row) -> tuple[Any, ...]:
    batch = (row["max_num_seqs"] or 0, row["max_batched_tokens"] or 0)
    degrees = (row["tp"], row["pp"], row["ep"], row["dp"])
    return (
        row["sku"],
        row["precision"],
        *degrees,
        *batch,
        row.get("policy", ""),
        row.get("router", ""),
        row.get("mode", ""),
        *(str(row.get(role)) for role in ("prefill", "decode")),
    )


def assemble(
    ranking: Ranking,
    *,
    of_best: Row,
    workload: Row,
    question: Row,
    provenance: Row,
    elapsed_s: float,
) -> Row:
    """The object of ``docs/results.md``."""
    best = {**ranking.ranked[0], **of_best} if ranking.ranked else None
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": ranking.complete,
        "best": best,
        "ranked": list(ranking.ranked),
        "ties": list(ranking.ties),
        "undrawn": ranking.undrawn,
        "explanation": ranking.explanation,
        "sensitivity": ranking.sensitivity,
        "infeasible": list(ranking.infeasible),
        "beaten": dict(ranking.beaten),
        "workload": workload,
        "question": question,
        "provenance": provenance,
        "elapsed_s": elapsed_s,
    }
