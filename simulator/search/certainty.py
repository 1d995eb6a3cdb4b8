"""The contenders of a ranking, drawn again: how sure their capacities are, and what would tell ties apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.search.confidence import DRAWS, Apart, Draws, confidences
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


@dataclass(frozen=True, slots=True)
class Certainty:
    """``drawn_tables`` are those of a placement as one draw of their errors has them; ``uncertain`` names the
    kernels that make an outcome's times the least sure."""

    pool: Pool
    tables_for: TablesFor
    drawn_tables: Callable[[Placement, int], RuntimeTables]
    shape_of: Callable[[Placement], Shape]
    uncertain: Callable[[AnyOutcome], list[str]]
    seed: int
    sizing: Sizing

    def judge(self, ranking: Ranking, confidence: float) -> Ranking:
        """The ranking with the intervals and ties of its contenders, and how surely each carries the rate.

        Where the least for the rate is asked for, rows behind the contenders are looked at, too, that have
        less than these once they carry it as surely as ``confidence``.
        """
        count = len(ranking.contenders)
        draws = self._draws(ranking, 0, count)
        sizes = self.sizing.sizes(ranking.outcomes[:count], draws, confidence)
        last = count + cheaper_behind(ranking, sizes)
        if last > count:
            behind = self._draws(ranking, count, last)
            draws += behind
            sizes += self.sizing.sizes(ranking.outcomes[count:last], behind, confidence)
        found = confidences(draws, confidence)
        judged = [
            {
                **row,
                "qps_interval": list(each.interval),
                "interval_sources": sources(each.trace_share),
                "tied_with_best": each.tied and index < count,
                **size,
            }
            for index, (row, each, size) in enumerate(
                zip(ranking.ranked[:last], found, sizes, strict=True)
            )
        ]
        ties = [
            self._tie(index + 1, ranking.ranked[index], each.apart, ranking.outcomes[index])
            for index, each in enumerate(found[:count])
            if each.apart is not None
        ]
        return ranking.with_contenders(judged, ties)

    def _draws(self, ranking: Ranking, first: int, last: int) -> list[Draws]:
        """Of the rows from the first on, up to the last."""
        outcomes, rows = ranking.outcomes[first:last], ranking.ranked[first:last]
        seeds = [self.seed + 1 + draw for draw in range(DRAWS)]
        sampled = [
            self.pool.submit(Worker.capacities, self._serving(each), row["qps"], seeds)
            for each, row in zip(outcomes, rows, strict=True)
        ]
        both = self._with_errors(outcomes, rows, seeds)
        return [
            Draws(row["qps"], one.result(), mine, row["usd_per_hour"])
            for row, one, mine in zip(rows, sampled, both, strict=True)
        ]

    def _tie(self, rank: int, row: Row, apart: Apart, outcome: AnyOutcome) -> Row:
        return tie(rank, row, apart, self.uncertain(outcome) if apart.by == "profiling" else [])

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
        case _:
            text = f"{name} is as good as the best: no longer trace would tell"
    return {"rank": rank, "told_apart_by": apart.by, "operators": list(operators), "text": text}
