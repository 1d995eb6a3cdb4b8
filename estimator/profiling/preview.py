"""What a profiling run would do: cases by kernel and SKU, without measuring any."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from servecast.agent.messages import Node
from servecast.compiler.kernels import KernelCase
from servecast.estimator.store import Store


@dataclass(frozen=True, slots=True)
class PlanLine:
    """Cases of one kernel on one SKU; ``unsupported`` ones no agent of that SKU can run."""

    sku: str
    kernel: str
    planned: int
    present: int
    missing: int
    unsupported: int


def preview(store: Store, nodes: list[Node], cases: tuple[KernelCase, ...]) -> list[PlanLine]:
    """Lines in the order of SKU and kernel."""
    lines = []
    for sku in sorted({node.sku for node in nodes}):
        able = [node for node in nodes if node.sku == sku]
        lacking = store.missing(cases, sku)
        can = [case for case in lacking if any(node.runs(case) for node in able)]
        planned, absent, missing = (
            Counter(case.kernel for case in some) for some in (cases, lacking, can)
        )
        lines += [
            PlanLine(
                sku,
                kernel,
                planned[kernel],
                planned[kernel] - absent[kernel],
                missing[kernel],
                absent[kernel] - missing[kernel],
            )
            for kernel in sorted(planned)
        ]
    return lines
