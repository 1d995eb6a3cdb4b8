"""Sequence parallelism: reduce-scatter and all-gather in place of an all-reduce.

Between the two every rank has its share of the rows, so norms and residual additions are not done
tp times over (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2; vLLM's sequence-parallel pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from servecast.compiler.ir import Add, Collective, CollectiveKind, Norm
from servecast.compiler.sharded import Call, Run


def scatter_rows(runs: Sequence[Run], gather: Collective) -> list[Run]:
    """The same runs with every tensor-parallel all-reduce taken apart; ``gather`` is the second part."""
    scattered, result = False, []
    for run in runs:
        calls: list[Call] = []
        for call in run.calls:
            scattered = _append(calls, call, scattered, gather)
        result.append(replace(run, calls=tuple(calls)))
    return result


def _append(calls: list[Call], call: Call, scattered: bool, gather: Collective) -> bool:
    """Adds a call to a rank's; whether the rows are scattered after it."""
    op, tp, hidden = call.op, gather.degree, gather.elements
    if isinstance(op, Collective) and op.kind is CollectiveKind.ALL_REDUCE and op.group == "tp":
        name = call.name.replace("all_reduce", "reduce_scatter")
        scatter = replace(op, kind=CollectiveKind.REDUCE_SCATTER)
        calls.append(replace(call, name=name, op=scatter))
        return True
    if scattered and isinstance(op, (Norm, Add)):
        calls.append(replace(call, row_factor=call.row_factor / tp))
        return True
    if scattered:
        calls.append(Call("rows_all_gather", gather, row_factor=1 / tp))
    elif isinstance(op, Norm) and op.width == hidden and op.per_row == 1:
        # The norm of another branch: each rank takes its share of the rows again, which is free.
        calls.append(replace(call, row_factor=call.row_factor / tp))
        return True
    calls.append(call)
    return False
