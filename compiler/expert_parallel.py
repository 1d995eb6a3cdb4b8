"""A rank's experts, and how the rows of other data-parallel ranks reach them.

A stage's tp x dp ranks hold every expert once: ``ep`` groups of ranks get whole experts, and the
ranks of a group cut each of its experts. With one data-parallel rank all ranks have all rows, and the
all-reduce that follows adds what each contributes. With more, rows travel to their experts and back: by
all-gather and reduce-scatter, as vLLM does by default (``allgather_reducescatter`` of
vllm/distributed/device_communicators/all2all.py); among more ranks than a row has experts all-to-all
between groups of whole experts, as DeepEP does. Each tensor-parallel rank sends its share of the rows,
and the all-reduce after the layer joins them.
"""

from __future__ import annotations

from dataclasses import replace

from servecast.compiler.formats import Format
from servecast.compiler.ir import Collective, CollectiveKind, Experts
from servecast.compiler.program import Site, Split
from servecast.compiler.sharded import Call, Parallelism
from servecast.compiler.tensor_parallel import Indivisible, divided

CHOICE_BITS = 32
"""Of a weight or an expert's number (vLLM,
vllm/model_executor/layers/fused_moe/prepare_finalize/naive_dp_ep.py, dispatch)."""


def expert_calls(
    site: Site, op: Experts, parallelism: Parallelism, communication: Format
) -> list[Call]:
    """One rank's experts, between what brings rows to them and takes them back."""
    tp, dp, ep = parallelism.tp, parallelism.dp, parallelism.ep
    where = f"{site.name} (line {site.line})"
    if site.split is Split.WHOLE:
        if ep > 1 or dp > 1:
            raise Indivisible(f"{where} does not split its linears, so it cannot be dealt out")
        return [Call(site.name, op, site.rows)]
    if op.experts % ep:
        raise Indivisible(f"{where} has {op.experts} experts, which ep {ep} does not divide")
    cuts = tp * dp // ep
    share = replace(
        op,
        experts=op.experts // ep,
        intermediate=divided(op.intermediate, cuts, "intermediate numbers", where),
    )
    experts = Call(site.name, share, site.rows, row_factor=float(dp))
    if dp == 1:
        return [experts]
    there = _dispatch(op, parallelism)
    back = Call(f"{site.name}_combine", _combine(op, parallelism, communication))
    return [*(Call(f"{site.name}_{what}", each) for what, each in there.items()), experts, back]


def _dispatch(op: Experts, parallelism: Parallelism) -> dict[str, Collective]:
    """Rows, and where they are gathered, of each the weights and the numbers of the experts that it goes to:
    three tensors, a message each, however small (vLLM's all2all.py, ``AgRsAll2AllManager.dispatch``).
    """
    if _by_all_to_all(op, parallelism):
        return {"dispatch": _all_to_all(op, parallelism)}
    ranks, group = _group(parallelism)
    choices = -(-op.top_k * CHOICE_BITS // op.activations.bits)
    widths = {"dispatch": op.hidden, "choice_weights": choices, "choices": choices}
    return {
        what: Collective(
            CollectiveKind.ALL_GATHER,
            -(-width * parallelism.dp // ranks),
            ranks,
            group,
            op.activations,
        )
        for what, width in widths.items()
    }


def _combine(op: Experts, parallelism: Parallelism, communication: Format) -> Collective:
    """Results come back in the model's communication format, rows go out in the experts' own."""
    if _by_all_to_all(op, parallelism):
        return replace(_all_to_all(op, parallelism), format=communication)
    ranks, group = _group(parallelism)
    elements = op.hidden * parallelism.dp
    return Collective(CollectiveKind.REDUCE_SCATTER, elements, ranks, group, communication)


def _by_all_to_all(op: Experts, parallelism: Parallelism) -> bool:
    """A rank that holds fewer than its share of a row's experts need not see the row."""
    return parallelism.ep > 1 and parallelism.tp * parallelism.dp > op.top_k


def _group(parallelism: Parallelism) -> tuple[int, str]:
    """The ranks that rows come from: with whole experts each tensor-parallel rank has a share of them."""
    tp, dp, ep = parallelism.tp, parallelism.dp, parallelism.ep
    return (dp, "dp") if ep == 1 else (tp * dp, "ep")


def _all_to_all(op: Experts, parallelism: Parallelism) -> Collective:
    """Each row goes to ``top_k`` experts, and to every rank that holds a cut of one."""
    ranks = parallelism.tp * parallelism.dp
    copies = op.top_k * ranks // parallelism.ep
    elements = -(-op.hidden * copies // parallelism.tp)
    return Collective(CollectiveKind.ALL_TO_ALL, elements, ranks, "ep", op.activations)
