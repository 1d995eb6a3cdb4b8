"""What a profiling run would do: cases by kernel and SKU, without measuring any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from servecast.agent.messages import Node
from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.workers import Job
from servecast.estimator.store import Store


@dataclass(frozen=True, slots=True)
class PlanLine:
    """Cases of one kernel on one SKU, in all rounds; ``unsupported`` ones no agent of that SKU can run."""

    sku: str
    kernel: str
    planned: int
    present: int
    missing: int
    unsupported: int


@dataclass(frozen=True, slots=True)
class SkuPlan:
    """What is planned on a SKU, and which cases are to be measured."""

    sku: str
    lines: tuple[PlanLine, ...]
    missing: tuple[KernelCase, ...]


def preview(store: Store, nodes: Sequence[Node], wanted: Job) -> list[SkuPlan]:
    """By what the nodes can run, in the order of their SKUs."""
    plans = []
    for sku in sorted({node.sku for node in nodes}):
        able = [node for node in nodes if node.sku == sku]
        lacking = store.missing(wanted.cases, sku, wanted.rounds)
        can = [case for case in lacking if any(node.runs(case) for node in able)]
        plans.append(_plan(sku, wanted, lacking, can))
    return plans


def preview_alone(store: Store, sku: str, wanted: Job) -> SkuPlan:
    """For a SKU that no node has yet: as if it could run everything."""
    lacking = store.missing(wanted.cases, sku, wanted.rounds)
    return _plan(sku, wanted, lacking, lacking)


def _plan(
    sku: str,
    wanted: Job,
    lacking: Iterable[KernelCase],
    can: Sequence[KernelCase],
) -> SkuPlan:
    planned, absent, missing = (
        Counter(case.kernel for case in some)
        for some in (wanted.cases * wanted.rounds, lacking, can)
    )
    lines = tuple(
        PlanLine(
            sku,
            kernel,
            planned[kernel],
            planned[kernel] - absent[kernel],
            missing[kernel],
            absent[kernel] - missing[kernel],
        )
        for kernel in sorted(planned)
    )
    return SkuPlan(sku, lines, tuple(can))
