"""The main job, from a question and a workload to the answer: space, tables, search, ranking.

Reads no files of the user's and prints nothing; the command line does both.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from servecast.compiler.errors import InfeasibleError
from servecast.simulator.search.dry_run import space_json
from servecast.simulator.search.latency_spread import at_capacity, at_trace_rate
from servecast.simulator.search.pairs import Pairings
from servecast.simulator.search.question import Question
from servecast.simulator.search.result import Ranking, assemble
from servecast.simulator.search.rows import Row
from servecast.simulator.search.searching import Means, Searching
from servecast.simulator.search.servable import servable, servable_pairs
from servecast.simulator.search.space import Space
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
    space = servable(question.space(workload.mean_sequence_tokens), workload)
    apart = servable_pairs(question.pairings(workload.mean_sequence_tokens))
    if not space.placements and not apart.kept:
        raise InfeasibleError(nothing_fits(question, space, apart))
    space = replace(space, infeasible=space.infeasible + apart.infeasible)
    searched = long_enough(workload, question.seed)
    demand = question.demand(workload, searched)
    searching = Searching(question, space, demand, means, apart.kept)
    ranking = searching.run()
    skus = {placement.sku.name: placement.sku for placement in searching.placements}
    loader = means.loader
    return assemble(
        ranking,
        of_best=_of_best(ranking, searching, workload) if means.judged else {},
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


def _of_best(ranking: Ranking, searching: Searching, workload: Workload) -> Row:
    """Its latencies under the trace as it is, all replicas, and how sure they are when it is full."""
    if not ranking.outcomes:
        return {}
    serving = ranking.outcomes[0].serving(searching.kept_tables_for, searching.shape_of)
    seed, searched = searching.question.seed, searching.demand.searched
    told = {"at_trace_rate": at_trace_rate(workload, serving, seed)}
    if ranking.complete:  # whoever pressed Ctrl-C waits
        told["intervals"] = at_capacity(searched, serving, seed, ranking.ranked[0]["qps"])
    return told


def nothing_fits(question: Question, space: Space, apart: Pairings) -> str:
    """Which constraint empties the space, how many configurations each refuses, and the commonest's first."""
    told = space_json(question, space, apart)
    counts = ", ".join(f"{count} by {constraint}" for constraint, count in told["refused"].items())
    commonest = next(iter(told["refused"])).partition(" (")[0]  # of a role: "memory (prefill)"
    first = next(miss for miss in told["infeasible"] if miss["constraint"] == commonest)
    return (
        f"{question.program.model} runs on none of the configurations asked for: refused are {counts}. "
        f"{first['sku']} tp={first['tp']} pp={first['pp']}: {first['reason']}"
    )
