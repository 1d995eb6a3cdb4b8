"""One search over one space: a pool, a journal of what it found, and the ranking at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from servecast.compiler.errors import is_interrupt
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables
from servecast.estimator.uncertain import Step
from servecast.simulator.metrics.energy import Drawing
from servecast.simulator.search.certainty import Certainty
from servecast.simulator.search.found import Beaten, Carried, PairCarried
from servecast.simulator.search.insight import Insight
from servecast.simulator.search.journal import Journal, question_key
from servecast.simulator.search.likely import full_replica
from servecast.simulator.search.outcome import AnyOutcome, Outcome, PairOutcome
from servecast.simulator.search.pair_search import PairSearch
from servecast.simulator.search.pairs import Pairing
from servecast.simulator.search.pool import LostWorkerError, Pool
from servecast.simulator.search.question import Question
from servecast.simulator.search.race import Race
from servecast.simulator.search.result import Ranking, rank, row_of
from servecast.simulator.search.run import search
from servecast.simulator.search.sizing import Sizing
from servecast.simulator.search.space import Candidate, Placement, Space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.search.task import Demand, Shape, Stake
from servecast.simulator.search.warm_up import warm_up

MAX_OPERATORS = 3
"""Named for a tie that profiling would end."""

Progress = Callable[[int, int, str], None]  # configurations done, in all, what is going on


@dataclass(frozen=True, slots=True)
class Means:
    """What a search works with, beside its question.

    ``journal`` is the file that a stopped search leaves, ``resume`` goes on from it. ``best_only`` shows of
    most configurations only that another is better. Not ``judged``, the ranking has no intervals, ties or
    reasons, which cost as much again. A journal stays when its search is done where others are to follow,
    and is added to ``kept``.
    """

    loader: TableLoader
    pool_for: Callable[[Demand], Pool]
    progress: Progress
    journal: Path
    resume: bool = False
    best_only: bool = False
    judged: bool = True
    kept: list[Path] | None = None
    draw_all: bool = False


@dataclass(slots=True)
class Searching:
    """One search over one space: its pool, its journal and what it has found so far."""

    question: Question
    space: Space
    demand: Demand
    means: Means
    pairings: tuple[Pairing, ...] = ()
    outcomes: list[AnyOutcome] = field(default_factory=list)
    _kept: dict[str, RuntimeTables] = field(default_factory=dict)

    def run(self) -> Ranking:
        """Everything found, or what was when Ctrl-C came."""
        placements = self.placements
        for sku in {placement.sku.name: placement.sku for placement in placements}.values():
            self.means.loader.expect(sku, [p.sharded for p in placements if p.sku == sku])
        journal = Journal(self.means.journal, self._key(), self.means.resume)
        pool = self.means.pool_for(self.demand)
        complete = False
        try:
            if pool.slots > 1:
                pool.submit(warm_up, doing="compiling the engine")
            self._search(journal, pool)
            ranking = self.ranking()
            if ranking.ranked and self.means.judged:
                ranking = self._judged(ranking, pool)
            complete = True
        except BrokenExecutor as error:
            raise LostWorkerError(
                "a worker process of the search was killed, perhaps for want of memory; "
                f"fewer --jobs need less, and --resume goes on from {self.means.journal}"
            ) from error
        except (KeyboardInterrupt, RuntimeError) as error:
            if not (self.outcomes and is_interrupt(error)):
                raise
            pool.close(now=True)
            ranking = replace(self.ranking(), complete=False)
        finally:
            pool.close(now=not complete)
            self._close(journal, done=complete)
        return ranking

    def _close(self, journal: Journal, *, done: bool) -> None:
        kept = self.means.kept
        if done and kept is not None and journal.written is not None:
            kept.append(journal.written)
        journal.close(done=done and kept is None)

    def _judged(self, ranking: Ranking, pool: Pool) -> Ranking:
        """With how sure its contenders are, and why its best is best."""
        self.means.progress(len(self.outcomes), len(self), "resampling the best")
        judged = self._certainty(pool).judge(ranking, self.question.confidence)
        self.means.progress(len(self.outcomes), len(self), "asking what if")
        balanced = self.question.balanced
        insight = Insight(pool, self.demand, self.kept_tables_for, self.shape_of, balanced)
        return insight.explained(judged)

    @property
    def placements(self) -> list[Placement]:
        """Of all configurations, each once by its label and what its tables must cover."""
        apart = (role for pairing in self.pairings for role in (pairing.prefill, pairing.decode))
        every = (*self.space.placements, *apart)
        return list({_key(placement): placement for placement in every}.values())

    def __len__(self) -> int:
        return len(self.space) + len(self.pairings)

    def kept_tables_for(self, placement: Placement) -> RuntimeTables:
        """As ``tables_for``, kept: for the few contenders, which are asked for again and again."""
        key = repr(placement.sharded) + _key(placement)
        if key not in self._kept:
            self._kept[key] = self.tables_for(placement)
        return self._kept[key]

    def tables_for(self, placement: Placement) -> RuntimeTables:
        self.means.progress(len(self.outcomes), len(self), f"{placement.label}: tables")
        return self._informed_loader().tables(placement.sharded, placement.sku, bounds(placement))

    def _informed_loader(self) -> TableLoader:
        """It knows of this search's lengths: another trace's may have come between."""
        loader, trace = self.means.loader, self.demand.trace
        loader.expect_lengths(trace.prompt_tokens, trace.output_tokens)
        return loader

    def _certainty(self, pool: Pool) -> Certainty:
        def drawn(placement: Placement, draw: int) -> RuntimeTables:
            limits = bounds(placement)
            return self._informed_loader().drawn_tables(
                placement.sharded, placement.sku, limits, draw
            )

        question, kept, shape_of = self.question, self.kept_tables_for, self.shape_of
        sizing = Sizing(pool, kept, shape_of, question.market, self.demand.trace.rate_per_s)
        return Certainty(
            pool, kept, drawn, shape_of, self._uncertain, question.seed, sizing, self.means.draw_all
        )

    def _uncertain(self, outcome: AnyOutcome) -> list[str]:
        """The kernels that add most to the uncertainty of the mean step (of a decode replica) at capacity."""
        assert isinstance(outcome.found, Carried | PairCarried)
        metrics, placement = outcome.found.metrics, outcome.placements[-1]
        step = Step(
            tokens=max(round(metrics.mean_tokens), 1),
            decodes=max(min(round(metrics.mean_batch), round(metrics.mean_tokens)), 1),
            context=self.demand.searched.mean_sequence_tokens,
        )
        found = self.means.loader.uncertain_operators(placement.sharded, placement.sku, step)
        return [each.operator for each in found[:MAX_OPERATORS]]

    def _search(self, journal: Journal, pool: Pool) -> None:
        self.outcomes.extend(journal.earlier(self.asked()))
        for outcome in self.outcomes_from(pool):
            self.outcomes.append(outcome)  # before its line: Ctrl-C may come in between
            journal.add(outcome)
            self.means.progress(len(self.outcomes), len(self), "searching")

    def outcomes_from(self, pool: Pool) -> Iterator[AnyOutcome]:
        """Of the configurations that have none yet, those with prefill and decode apart last."""
        placements = _without(self.space.placements, self.outcomes)
        done = {id(each.pairing) for each in self.outcomes if isinstance(each, PairOutcome)}
        pairings = [pairing for pairing in self.pairings if id(pairing) not in done]
        race = Race(self.tables_for, pool, self.shape_of, self._promise, self._stake)
        if self.means.best_only:
            for outcome in self.outcomes:
                race.heed(outcome)
            yield from race.run(placements)
        else:
            yield from search(placements, self.tables_for, pool, self.shape_of)
        balanced = self.question.balanced
        apart = PairSearch(self.tables_for, pool, self.shape_of, balanced, stake=lambda: race.stake)
        for found in apart.run(pairings):
            yield race.heed(found) if self.means.best_only else found

    def asked(self) -> Iterator[AnyOutcome]:
        """Every configuration, as if beaten: what a journal's lines are told by."""
        none = Beaten("")
        for placement in self.space.placements:
            for candidate in placement.candidates:
                yield Outcome(placement, candidate, none)
        for pairing in self.pairings:
            yield PairOutcome(pairing, none)

    def shape_of(self, placement: Placement) -> Shape:
        return shape(self.question, placement)

    def _promise(self, tables: RuntimeTables, placement: Placement, candidate: Candidate) -> float:
        """Requests per dollar of a replica that is always full."""
        degrees = placement.parallelism
        full = full_replica(self.demand.searched, tables, candidate.limits)
        return full.rate_per_s * degrees.dp / (degrees.gpus * placement.sku.usd_per_hour)

    def _stake(self, outcome: AnyOutcome) -> Stake | None:
        if not isinstance(outcome.found, Carried | PairCarried):
            return None
        row = row_of(outcome, self.demand, self.question.market)
        return self.question.objective.stake(row) if row["grounded"] else None

    def ranking(self) -> Ranking:
        question = self.question
        misses = self.space.infeasible
        return rank(self.outcomes, misses, self.demand, question.market, question.objective)

    def _key(self) -> str:
        skus = {placement.sku.name: placement.sku for placement in self.placements}
        data = [self.means.loader.provenance(sku) for _, sku in sorted(skus.items())]
        parts = (self.question.json(), self.question.skus, data, self.means.best_only)
        return question_key(parts, self.demand.trace)


def _key(placement: Placement) -> str:
    """Placements of one label have tables in common where these cover the same."""
    return f"{placement.label} {bounds(placement)}"


def _without(placements: Sequence[Placement], outcomes: Sequence[AnyOutcome]) -> list[Placement]:
    """The placements with the candidates that have no outcome yet."""
    done = {
        (id(each.placement), id(each.candidate)) for each in outcomes if isinstance(each, Outcome)
    }
    left = []
    for placement in placements:
        candidates = tuple(c for c in placement.candidates if (id(placement), id(c)) not in done)
        if len(candidates) == len(placement.candidates):
            left.append(placement)
        elif candidates:
            left.append(replace(placement, candidates=candidates))
    return left


def shape(question: Question, placement: Placement) -> Shape:
    degrees, sku, market = placement.parallelism, placement.sku, question.market
    most = market.most_replicas(sku, degrees.gpus)
    paid = [market.gpus_paid(sku, replicas, degrees.gpus) for replicas in range(1, most + 1)]
    return Shape(
        degrees.dp,
        usd_per_hour=tuple(gpus * sku.usd_per_hour for gpus in paid),
        costs=tuple(question.objective.least_cost(sku, gpus) for gpus in paid),
        drawing=Drawing(placement.sharded, sku),
    )
