"""The main job, from a question and a workload to the answer: space, tables, search, ranking.

Reads no files of the user's and prints nothing; the command line does both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from servecast.compiler.errors import InfeasibleError
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.search.latency_spread import at_trace_rate
from servecast.simulator.search.question import Question
from servecast.simulator.search.result import Ranking, assemble
from servecast.simulator.search.rows import Row
from servecast.simulator.search.searching import Means, Searching, shape
from servecast.simulator.search.space import Placement, Space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.workload import Workload

MIN_REQUESTS = 10_000
"""A capacity found on fewer rests on the trace's first minutes; shorter traces are resampled."""


def plan(question: Question, workload: Workload, means: Means, versions: Row) -> Row:
    """The answer's JSON object; that of the best so far where Ctrl-C stops the search.

    Raises:
        InfeasibleError: the model fits on none of the GPUs asked for.
        KeyboardInterrupt: nothing was found before it.
    """
    started = time.perf_counter()
    space = question.space(workload.mean_sequence_tokens)
    apart = question.pairings(workload.mean_sequence_tokens)
    if not space.placements and not apart.kept:
        raise InfeasibleError(nothing_fits(question, space, apart.refused))
    searched = long_enough(workload, question.seed)
    demand = question.demand(workload, searched)
    searching = Searching(question, space, demand, means, apart.kept)
    ranking = searching.run()
    skus = {placement.sku.name: placement.sku for placement in searching.placements}
    loader = means.loader
    return assemble(
        ranking,
        best_at_trace_rate=_at_trace_rate(question, ranking, workload, loader),
        workload={**asdict(describe(workload)), "searched_requests": len(searched)},
        question=question.json(),
        provenance={
            "operator_times": {name: loader.provenance(sku) for name, sku in sorted(skus.items())},
            "notes": sorted({note for sku in skus.values() for note in loader.notes(sku)}),
            **versions,
        },
        elapsed_s=time.perf_counter() - started,
    )


def long_enough(workload: Workload, seed: int) -> Workload:
    """The workload that capacities are found with: the trace, resampled where it is short."""
    return workload if len(workload) >= MIN_REQUESTS else bootstrap(workload, MIN_REQUESTS, seed)


def _at_trace_rate(
    question: Question, ranking: Ranking, workload: Workload, loader: TableLoader
) -> Row | None:
    """The best configuration, all replicas, under the trace as it is."""
    if not ranking.outcomes:
        return None

    def tables_for(placement: Placement) -> RuntimeTables:
        return loader.tables(placement.sharded, placement.sku, bounds(placement))

    serving = ranking.outcomes[0].serving(tables_for, lambda each: shape(question, each))
    return at_trace_rate(workload, serving, question.seed)


def nothing_fits(question: Question, space: Space, refused: Mapping[str, int]) -> str:
    """Which constraint empties the space, how often each does, and the first case of the commonest.

    ``refused`` are those of prefill and decode apart, by constraint.
    """
    reasons = Counter(miss.constraint for miss in space.infeasible)
    every = (reasons + Counter(refused)).most_common()
    counts = ", ".join(f"{count} by {constraint}" for constraint, count in every)
    if not reasons:
        return (
            f"{question.program.model} runs on no pair of the GPUs asked for with prefill and decode "
            f"apart: refused are {counts}"
        )
    commonest = reasons.most_common(1)[0][0]
    first = next(miss for miss in space.infeasible if miss.constraint == commonest)
    return (
        f"{question.program.model} runs on none of the configurations asked for: refused are {counts}. "
        f"{first.sku} tp={first.tp} pp={first.pp}: {first.reason}"
    )
