"""A search of the size of Vidur's: 6 models x 3 GPUs x 9 placements x 9 batch settings x 3 traces of 16,000.

4,374 configurations, each a deployment on 16 GPUs behind a round-robin router; its capacity is the highest
rate at which the queue delay's p99 stays below 5 s (Agrawal et al. 2024, section 7). One process, no pool:
what does not fit in memory is counted and costs nothing.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.search.bisection import LIKELY, Known, find_capacity
from servecast.simulator.search.bounds import likely_rate_per_s, max_rate_per_s
from servecast.simulator.search.capacity import Capacity, Judge
from servecast.simulator.search.run import groups_of
from servecast.simulator.search.space import Axes, Placement, Space, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.traces import TraceOptions, read_trace
from servecast.simulator.traffic.workload import Workload

SPECS = Path(__file__).resolve().parent.parent / "spec"
MODELS = (
    ("phi.llm", "phi-2"),
    ("llama.llm", "llama-2-7b"),
    ("internlm.llm", "internlm-20b"),
    ("llama.llm", "codellama-34b"),
    ("llama.llm", "llama-2-70b"),
    ("qwen2.llm", "qwen-72b"),
)
AXES = Axes(
    skus=("h100-sxm", "a100-sxm-80gb", "a40"),
    tp=(1, 2, 4),
    pp=(1, 2, 4),
    max_num_seqs=(64, 128, 256),
    max_batched_tokens=(512, 1024, 2048),
)
GPUS = 16
REQUESTS = 16_000


def traces() -> list[Workload]:
    """Of 16,000 requests each; the shorter are resampled in blocks, lengths alone arrive as Poisson."""
    shared = Path(os.environ.get("SERVECAST_SHARED", SPECS / "../../shared")) / "data/traces"
    drawn = TraceOptions(rate_per_s=1.0, arrival_cv=1.0)
    return [
        bootstrap(read_trace(shared / name, options), REQUESTS, 0)
        for name, options in (
            ("azure-2023-conv.csv", TraceOptions()),
            ("azure-2023-code.csv", TraceOptions()),
            ("vidur-arxiv-summarization-lengths.csv", drawn),
        )
    ]


def grid_cost(store: Path | None, per_model: int | None = None) -> dict[str, float]:
    """CPU seconds of the tables, which a store keeps, and of the search; peak memory after each third.

    ``per_model``: no more placements of each, to try it out.
    """
    loader, workloads, found = TableLoader(store), traces(), Counts()
    for path, name in MODELS:
        found.search(load_spec(SPECS / path).model(name), workloads, loader, per_model)
    return {
        "configurations": len(MODELS) * len(AXES) * len(workloads),
        "searched": found.searched,
        "with_capacity": found.with_capacity,
        "probes_per_configuration": found.probes / max(found.with_capacity, 1),
        "tables_cpu_s": found.tables_s,
        "search_cpu_s": found.search_s,
        "search_ms_per_configuration": 1e3 * found.search_s / max(found.searched, 1),
        "peak_mb_first_model": found.peaks_mb[0],
        "peak_mb": found.peaks_mb[-1],
    }


class Counts:
    """What a grid has cost so far."""

    def __init__(self) -> None:
        self.searched = self.with_capacity = self.probes = 0
        self.tables_s = self.search_s = 0.0
        self.peaks_mb: list[float] = []
        self._engine = Engine()

    def search(
        self,
        program: Program,
        workloads: list[Workload],
        loader: TableLoader,
        per_model: int | None,
    ) -> None:
        space = enumerate_space(program, AXES, shipped_skus(), GPUS)
        for sku in {p.sku.name: p.sku for p in space.placements}.values():
            loader.expect(sku, [p.sharded for p in space.placements if p.sku == sku])
        judges = [
            Judge(w.drop_longer_than(program.context_tokens), (), self._engine) for w in workloads
        ]
        for placement, tables in self._placements(space, loader, per_model):
            replicas = GPUS // placement.parallelism.gpus
            started = time.process_time()
            fleets = [
                Fleet(tables, candidate.limits, replicas, "round_robin")
                for group in groups_of(placement)
                for candidate in group
            ]
            for judge in judges:
                self._capacities(judge, fleets)
            self.search_s += time.process_time() - started
        self.peaks_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def _capacities(self, judge: Judge, fleets: list[Fleet]) -> None:
        """Each search starts where the likely rate and the configuration before it say."""
        share, known = LIKELY, None
        for fleet in fleets:
            upper = fleet.replicas * max_rate_per_s(judge.workload, fleet.tables, fleet.limits)
            likely = fleet.replicas * likely_rate_per_s(judge.workload, fleet.tables, fleet.limits)
            capacity = find_capacity(judge, fleet, upper, share * likely, known)
            self.searched += 1
            if isinstance(capacity, Capacity):
                self.with_capacity += 1
                self.probes += capacity.probes
                share, known = capacity.rate_per_s / likely, Known(fleet, capacity)

    def _placements(
        self, space: Space, loader: TableLoader, per_model: int | None
    ) -> Iterator[tuple[Placement, RuntimeTables]]:
        for placement in space.placements[:per_model]:
            started = time.process_time()
            tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
            self.tables_s += time.process_time() - started
            yield placement, tables
