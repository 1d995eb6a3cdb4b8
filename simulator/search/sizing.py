"""The replicas that carry the trace's rate as surely as is asked, from those that the search found on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf

from servecast.simulator.engine.disaggregation import Disaggregated
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.capacity import replicas_needed
from servecast.simulator.search.confidence import MAX_CONTENDERS, Draws, carried_with, margin
from servecast.simulator.search.found import Carried, PairCarried
from servecast.simulator.search.market import Market
from servecast.simulator.search.outcome import AnyOutcome, PairOutcome, ShapeOf, TablesFor
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.rows import Row
from servecast.simulator.search.task import Shape
from servecast.simulator.search.worker import Worker

Counts = tuple[int, ...]  # replicas: of all, or of prefill and decode apart
RENTED = ("gpus", "usd_per_hour")
"""Figures that replicas alone decide, so that they are known without a run at capacity."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """``rate_per_s`` is the trace's. A deployment is as sure of a rate as its capacity's draws are of being
    no lower; more replicas are taken to spread by the same factor."""

    pool: Pool
    tables_for: TablesFor
    shape_of: ShapeOf
    market: Market
    rate_per_s: float

    def sizes(
        self, outcomes: Sequence[AnyOutcome], draws: Sequence[Draws], confidence: float
    ) -> list[Row]:
        """Of each outcome ``rate_confidence``, and ``at_confidence``: what to rent to be as sure as asked."""
        started = [
            self._start(outcome, self.rate_per_s * margin(each, confidence))
            if each.found < self.rate_per_s * margin(each, confidence)
            else None
            for outcome, each in zip(outcomes, draws, strict=True)
        ]
        return [
            {
                "rate_confidence": carried_with(each, self.rate_per_s),
                "at_confidence": self._rented(outcome, task.result() if task else _named(outcome)),
            }
            for outcome, each, task in zip(outcomes, draws, started, strict=True)
        ]

    def _start(self, outcome: AnyOutcome, rate_per_s: float) -> Future[Counts | None]:
        serving = outcome.serving(self.tables_for, self.shape_of)
        shapes = [self.shape_of(placement) for placement in outcome.placements]
        doing = f"{outcome.placements[0].label}: replicas to be sure of"
        if isinstance(serving, Fleet):
            return self.pool.submit(replicas_at, serving, shapes[0], rate_per_s, doing=doing)
        assert isinstance(outcome, PairOutcome)
        assert isinstance(outcome.found, PairCarried)
        pools = outcome.found.prefill, outcome.found.decode
        alone = tuple(pool.replica_rate_per_s for pool in pools)
        growth = Growth(outcome.pairing.room, (shapes[0].dp, shapes[1].dp), (alone[0], alone[1]))
        return self.pool.submit(counts_at, serving, growth, rate_per_s, doing=doing)

    def _rented(self, outcome: AnyOutcome, counts: Counts | None) -> Row | None:
        """None: there are too few GPUs."""
        if counts is None:
            return None
        paid = [
            self.market.gpus_paid(placement.sku, count, placement.parallelism.gpus)
            for placement, count in zip(outcome.placements, counts, strict=True)
        ]
        usd = [
            gpus * placement.sku.usd_per_hour
            for placement, gpus in zip(outcome.placements, paid, strict=True)
        ]
        roles = dict(zip(("prefill", "decode"), counts, strict=True)) if len(counts) == 2 else {}
        return {"replicas": sum(counts), "gpus": sum(paid), "usd_per_hour": sum(usd), **roles}


def _named(outcome: AnyOutcome) -> Counts:
    """The replicas that the search found."""
    found = outcome.found
    if isinstance(found, PairCarried):
        return found.prefill.replicas, found.decode.replicas
    assert isinstance(found, Carried)
    return (found.replicas,)


def cheaper_behind(ranking: Ranking, sizes: Sequence[Row]) -> int:
    """How many rows behind those that ``sizes`` are of may be the best once all are as sure of the rate.

    Those whose replicas as found are less than the least of ``sizes``; none where more is better.
    """
    key = ranking.objective.key
    if key not in RENTED:
        return 0
    sure = [size["at_confidence"] for size in sizes if size["at_confidence"]]
    least = min((each[key] for each in sure), default=inf)
    grounded = ranking.ranked[0]["grounded"]
    behind = takewhile(
        lambda row: row["grounded"] == grounded and row[key] < least, ranking.ranked[len(sizes) :]
    )
    return min(MAX_CONTENDERS, sum(1 for _ in behind))


def replicas_at(worker: Worker, fleet: Fleet, shape: Shape, rate_per_s: float) -> Counts | None:
    """The fewest replicas, no fewer than the fleet's, that keep the targets at a rate; None: too few GPUs."""
    named = fleet.replicas // shape.dp

    def holds(replicas: int) -> bool:
        grown = replace(fleet, replicas=replicas * shape.dp)
        return replicas >= named and worker.searched.broken(grown, rate_per_s) == ()

    found = replicas_needed(holds, named + 1, shape.most)
    return None if found is None else (found,)


@dataclass(frozen=True, slots=True)
class Growth:
    """How a pair may grow: a `Pairing`'s ``room``, data-parallel ranks, what one replica carries."""

    room: tuple[int, ...]
    dp: tuple[int, int]
    alone_per_s: tuple[float, float]

    def next(self, prefill: int, decode: int) -> tuple[int, int] | None:
        """One replica more of the role that carries less, of the other where there is no room."""
        grown = [(prefill + 1, decode), (prefill, decode + 1)]
        if prefill * self.alone_per_s[0] > decode * self.alone_per_s[1]:
            grown.reverse()
        return next((each for each in grown if self._fits(*each)), None)

    def _fits(self, prefill: int, decode: int) -> bool:
        return prefill <= len(self.room) and decode <= self.room[prefill - 1]


def counts_at(
    worker: Worker, pair: Disaggregated, growth: Growth, rate_per_s: float
) -> Counts | None:
    """The first replicas of both roles with which a growing pair keeps the targets; None: too few GPUs."""
    counts: tuple[int, int] | None = (
        pair.prefill.replicas // growth.dp[0],
        pair.decode.replicas // growth.dp[1],
    )
    while counts is not None:
        prefill = replace(pair.prefill, replicas=counts[0] * growth.dp[0])
        decode = replace(pair.decode, replicas=counts[1] * growth.dp[1])
        grown = replace(pair, prefill=prefill, decode=decode)
        if worker.searched.broken(grown, rate_per_s) == ():
            return counts
        counts = growth.next(*counts)
    return None
