"""The space before it is searched: each axis with its size, what runs, and what refuses the rest. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from servecast.simulator.search.pairs import Pairings
from servecast.simulator.search.question import Question
from servecast.simulator.search.rows import Row
from servecast.simulator.search.servable import POLICY
from servecast.simulator.search.space import Infeasible, Space


def space_json(question: Question, space: Space, apart: Pairings) -> Row:
    """``refused`` counts configurations by the constraint that refuses them."""
    together: Counter[str] = Counter()
    for miss in space.infeasible:
        if miss.constraint != POLICY:
            together[miss.constraint] += configurations_of(miss, question)
    by_policy = question.axes.num_aggregated - len(space) - together.total()
    refused = together + Counter(apart.refused) + Counter({POLICY: by_policy})
    return {
        "question": question.json(),
        "sizes": question.axes.sizes(),
        "configurations": len(question.axes),
        "to_search": len(space) + len(apart),
        "placements": len(space.placements),
        "pairs": len(apart),
        "refused": dict(refused.most_common()),
        "infeasible": [asdict(miss) for miss in (*space.infeasible, *apart.infeasible)],
    }


def configurations_of(miss: Infeasible, question: Question) -> int:
    """A refusal of one batch limit and token budget is of every policy and router, others of all batches."""
    sizes = question.axes.sizes()
    each = sizes["policies"] * sizes["routers"]
    if miss.max_num_seqs is not None:
        return each
    return each * sizes["max_num_seqs"] * sizes["max_batched_tokens"]
