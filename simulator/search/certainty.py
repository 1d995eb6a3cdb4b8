"""How sure the capacities of a ranking are, and what would tell ties apart.

The contenders are drawn again, and the first row of every kind: of a GPU, a precision and a mode. What they
say of how far a capacity may be off holds for the others of their kind, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.search.confidence import (
    CONTENDER,
    DRAWS,
    Apart,
    Confidence,
    Draws,
    Spread,
    confidences,
    spread,
)
from servecast.simulator.search.outcome import AnyOutcome, TablesFor
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.rows import Row
from servecast.simulator.search.serving import Serving
from servecast.simulator.search.sizing import Sizing, cheaper_behind
from servecast.simulator.search.space import Placement
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.search.task import Shape
from servecast.simulator.search.worker import Worker

UNDRAWN = Apart("draws")
"""What would tell a row from the best that only those of its kind speak for."""


@dataclass(frozen=True, slots=True)
class Certainty:
    """``drawn_tables`` are those of a placement as one draw of their errors has them; ``uncertain`` names the
    kernels that make an outcome's times the least sure. ``draw_all``: every row as if it were a contender.
    """

    pool: Pool
    tables_for: TablesFor
    drawn_tables: Callable[[Placement, int], RuntimeTables]
    shape_of: Callable[[Placement], Shape]
    uncertain: Callable[[AnyOutcome], list[str]]
    seed: int
    sizing: Sizing
    draw_all: bool = False

    def judge(self, ranking: Ranking, confidence: float) -> Ranking:
        """The ranking with the intervals and ties of its contenders, and how surely each carries the rate.

        Where the least for the rate is asked for, rows behind the contenders are looked at, too, that have
        less than these once they carry it as surely as ``confidence``.
        """
        count = len(ranking.ranked if self.draw_all else ranking.contenders)
        drawn = self._draws(ranking, range(count))
        sizes = self._sizes(ranking, drawn, confidence)
        behind = range(count, count + cheaper_behind(ranking, [*sizes.values()]))
        more = self._draws(ranking, [*behind, *_firsts(ranking, {*drawn, *behind})])
        drawn |= more
        sizes |= self._sizes(ranking, more, confidence)
        drawn = dict(sorted(drawn.items()))
        found = dict(zip(drawn, confidences([*drawn.values()], confidence), strict=True))
        rows = {index: _of_draws(ranking, index, drawn, found) for index in drawn}
        others = _of_others(ranking, drawn, confidence)
        judged = [
            {**row, **(rows.get(index) or others[index]), **sizes.get(index, {})}
            for index, row in enumerate(ranking.ranked)
        ]
        tied = [index for index, row in enumerate(judged) if index and row["tied_with_best"]]
        return ranking.with_contenders(
            judged, [self._tie(ranking, index, found.get(index)) for index in tied]
        )

    def _sizes(
        self, ranking: Ranking, drawn: Mapping[int, Draws], confidence: float
    ) -> dict[int, Row]:
        outcomes = [ranking.outcomes[index] for index in drawn]
        return dict(
            zip(drawn, self.sizing.sizes(outcomes, [*drawn.values()], confidence), strict=True)
        )

    def _draws(self, ranking: Ranking, indices: Sequence[int]) -> dict[int, Draws]:
        outcomes = [ranking.outcomes[index] for index in indices]
        rows = [ranking.ranked[index] for index in indices]
        seeds = [self.seed + 1 + draw for draw in range(DRAWS)]
        sampled = [
            self.pool.submit(Worker.capacities, self._serving(each), row["qps"], seeds)
            for each, row in zip(outcomes, rows, strict=True)
        ]
        both = self._with_errors(outcomes, rows, seeds)
        return {
            index: Draws(row["qps"], one.result(), mine, row["usd_per_hour"])
            for index, row, one, mine in zip(indices, rows, sampled, both, strict=True)
        }

    def _tie(self, ranking: Ranking, index: int, found: Confidence | None) -> Row:
        row, apart = ranking.ranked[index], found.apart if found else UNDRAWN
        assert apart is not None
        outcome = ranking.outcomes[index]
        return tie(
            index + 1, row, apart, self.uncertain(outcome) if apart.by == "profiling" else []
        )

    def _with_errors(
        self, contenders: Sequence[AnyOutcome], rows: Sequence[Row], seeds: Sequence[int]
    ) -> list[tuple[float, ...]]:
        """Seed by seed, so that the drawn tables of no more than one draw are held."""
        found: list[list[float]] = [[] for _ in contenders]
        for seed in seeds:
            drawn = self._drawn(seed)
            tasks = []
            for each, row in zip(contenders, rows, strict=True):
                serving = each.serving(drawn, self.shape_of)
                tasks.append(self.pool.submit(Worker.capacities, serving, row["qps"], [seed]))
            for mine, task in zip(found, tasks, strict=True):
                mine.extend(task.result())
        return [tuple(each) for each in found]

    def _serving(self, outcome: AnyOutcome) -> Serving:
        return outcome.serving(self.tables_for, self.shape_of)

    def _drawn(self, seed: int) -> TablesFor:
        """The tables of one draw, each made once."""
        made: dict[str, RuntimeTables] = {}

        def drawn(placement: Placement) -> RuntimeTables:
            key = f"{placement.label} {bounds(placement)}"
            if key not in made:
                made[key] = self.drawn_tables(placement, seed)
            return made[key]

        return drawn


def _kind(row: Row) -> tuple[str, ...]:
    """Rows of one kind have the same errors of operator times, and meet the same bursts."""
    return row["sku"], row["precision"], row["mode"]


def _firsts(ranking: Ranking, drawn: set[int]) -> list[int]:
    """Of each kind that has no row among those ``drawn`` but for the best, the first one behind it."""
    kinds = {_kind(ranking.ranked[index]) for index in drawn if index}
    found = []
    for index, row in enumerate(ranking.ranked):
        if index and _kind(row) not in kinds:
            kinds.add(_kind(row))
            found.append(index)
    return found


def _may_tie(ranking: Ranking, index: int) -> bool:
    """What measurements bear never ties with what they do not; nor do sizes of deployments that differ."""
    row, best, objective = ranking.ranked[index], ranking.ranked[0], ranking.objective
    near = objective.higher_is_better or objective.ratio(row, best) >= CONTENDER
    return near and bool(row["grounded"] == best["grounded"])


def _of_draws(
    ranking: Ranking, index: int, drawn: Mapping[int, Draws], found: Mapping[int, Confidence]
) -> Row:
    return {
        "qps_interval": list(found[index].interval),
        "qps_draws": list(drawn[index].both),
        "interval_sources": sources(found[index].trace_share),
        "tied_with_best": found[index].tied and _may_tie(ranking, index),
    }


def _of_others(ranking: Ranking, drawn: Mapping[int, Draws], confidence: float) -> dict[int, Row]:
    """By index, of the rows that nobody drew: they are as uncertain as those of their kind at most."""
    kinds: dict[tuple[str, ...], list[Draws]] = defaultdict(list)
    for index, draws in drawn.items():
        kinds[_kind(ranking.ranked[index])].append(draws)
    spreads = {kind: spread(alike, drawn[0], confidence) for kind, alike in kinds.items()}
    best = ranking.ranked[0]
    return {
        index: {
            "qps_interval": list(spreads[_kind(row)].interval(row["qps"])),
            "tied_with_best": _may_tie(ranking, index)
            and not _behind(row, best, spreads[_kind(row)]),
        }
        for index, row in enumerate(ranking.ranked)
        if index not in drawn
    }


def _behind(row: Row, best: Row, of_its_kind: Spread) -> bool:
    return log(row["qps_per_usd_hour"] / best["qps_per_usd_hour"]) < -of_its_kind.behind


def sources(trace_share: float | None) -> Row | None:
    """Of the interval's variance."""
    if trace_share is None:
        return None
    return {"trace": trace_share, "operator_times": 1 - trace_share}


def tie(rank: int, row: Row, apart: Apart, operators: Sequence[str]) -> Row:
    """One tied configuration and what would tell it from the best, in words."""
    name = f"#{rank} ({row['sku']} TP {row['tp']}, {row['max_num_seqs']} sequences)"
    match apart.by:
        case "profiling":
            kernels = "; ".join(operators) or "its kernels"
            text = f"profiling would tell {name} from the best: the least sure are {kernels}"
        case "more trace" if apart.times is not None:
            text = f"about {apart.times} times the trace would tell {name} from the best"
        case "more trace":
            text = f"more of the trace would tell {name} from the best"
        case "draws":
            text = f"{name} was not drawn, only others of its kind: --draw-all would tell"
        case _:
            text = f"{name} is as good as the best: no longer trace would tell"
    return {"rank": rank, "told_apart_by": apart.by, "operators": list(operators), "text": text}
