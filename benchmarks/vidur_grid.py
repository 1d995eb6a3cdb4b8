"""A search of the size of Vidur's: 6 models x 3 GPUs x 9 placements x 9 batch settings x 3 traces of 16,000.

    python benchmarks/vidur_grid.py --store grid.duckdb                  # tables are built, and kept there
    python benchmarks/vidur_grid.py --store grid.duckdb                  # again, with those tables
    python benchmarks/vidur_grid.py --store grid.duckdb --model phi-2    # in pieces
    python benchmarks/vidur_grid.py --store grid.duckdb --best-only      # for each model and trace the best

4,374 configurations, each a deployment on 16 GPUs behind a round-robin router; its capacity is the highest
rate at which the queue delay's p99 stays below 5 s (Agrawal et al. 2024, section 7). One process, no pool:
what does not fit in memory is counted and costs nothing. Prints a line of JSON for each model as it is
done, and one for all of them with the load of the machine. Real traces: SERVECAST_SHARED, default
../shared.

``--best-only`` runs the product's own race instead, as ``compile-and-search --best-only`` does: of a model's
243 configurations under a trace the one of most requests per dollar, whose replicas serve alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.search.bisection import Known, find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import Capacity, Judge
from servecast.simulator.search.market import Market
from servecast.simulator.search.pool import Here
from servecast.simulator.search.question import Question
from servecast.simulator.search.run import groups_of
from servecast.simulator.search.searching import Means, Searching
from servecast.simulator.search.space import Axes, Placement, Space, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.traces import TraceOptions, read_trace
from servecast.simulator.traffic.workload import Workload

SPECS = Path(__file__).resolve().parent.parent / "spec"
MODELS = {
    "phi-2": "phi.llm",
    "llama-2-7b": "llama.llm",
    "internlm-20b": "internlm.llm",
    "codellama-34b": "llama.llm",
    "llama-2-70b": "llama.llm",
    "qwen-72b": "qwen2.llm",
}
AXES = Axes(
    skus=("h100-sxm", "a100-sxm-80gb", "a40"),
    tp=(1, 2, 4),
    pp=(1, 2, 4),
    max_num_seqs=(64, 128, 256),
    max_batched_tokens=(512, 1024, 2048),
)
GPUS = 16
REQUESTS = 16_000
TWO_MINUTES_S = 120.0
"""The goal for the whole grid on one core."""


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


def grid_cost(
    store: Path | None, models: Sequence[str], per_model: int | None = None
) -> Iterator[dict[str, float | str | None]]:
    """CPU seconds of the tables, which a store keeps, and of the search, by model and of all.

    ``per_model``: no more placements of each, to try it out.
    """
    loader, workloads, whole = TableLoader(store), traces(), Counts()
    for name in models:
        of_model = Counts()
        of_model.search(load_spec(SPECS / MODELS[name]).model(name), workloads, loader, per_model)
        whole.add(of_model)
        yield {"model": name, **of_model.figures(len(AXES) * len(workloads))}
    cpu_s = whole.tables_s + whole.search_s
    figures = whole.figures(len(models) * len(AXES) * len(workloads))
    whole_grid = len(models) == len(MODELS) and per_model is None
    met = cpu_s <= TWO_MINUTES_S if whole_grid else None
    yield {"model": "all", **figures, "cpu_s": cpu_s, "two_minutes": met}


class Counts:
    """What a grid has cost so far."""

    def __init__(self) -> None:
        self.searched = self.with_capacity = self.probes = 0
        self.placements = 0
        self.tables_s = self.search_s = 0.0
        self._engine = Engine()

    def add(self, other: Counts) -> None:
        self.searched += other.searched
        self.with_capacity += other.with_capacity
        self.probes += other.probes
        self.placements += other.placements
        self.tables_s += other.tables_s
        self.search_s += other.search_s

    def figures(self, configurations: int) -> dict[str, float]:
        """``peak_mb`` is of the process so far."""
        return {
            "configurations": configurations,
            "searched": self.searched,
            "with_capacity": self.with_capacity,
            "probes_per_configuration": self.probes / max(self.with_capacity, 1),
            "tables_cpu_s": self.tables_s,
            "tables_cpu_s_per_placement": self.tables_s / max(self.placements, 1),
            "search_cpu_s": self.search_s,
            "search_ms_per_configuration": 1e3 * self.search_s / max(self.searched, 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "load_1min": os.getloadavg()[0],
        }

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
            self.placements += 1

    def _capacities(self, judge: Judge, fleets: list[Fleet]) -> None:
        """As `worker.Worker.find_all` does."""
        share, shares, known = 1.0, dict[int, float](), None
        for fleet in fleets:
            upper = fleet.replicas * max_rate_per_s(judge.workload, fleet.tables, fleet.limits)
            likely = judge.likely_per_s(fleet)
            guess = shares.get(fleet.limits.max_num_seqs, share) * likely
            capacity = find_capacity(judge, fleet, upper, guess, known)
            self.searched += 1
            if isinstance(capacity, Capacity):
                self.with_capacity += 1
                self.probes += capacity.probes
                share = shares[fleet.limits.max_num_seqs] = capacity.rate_per_s / likely
                known = Known(fleet, capacity)

    def _placements(
        self, space: Space, loader: TableLoader, per_model: int | None
    ) -> Iterator[tuple[Placement, RuntimeTables]]:
        for placement in space.placements[:per_model]:
            started = time.process_time()
            tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
            self.tables_s += time.process_time() - started
            yield placement, tables


def race_cost(store: Path | None, models: Sequence[str]) -> Iterator[dict[str, object]]:
    """CPU seconds of the search for the best, tables and all, and which it is, by model and trace."""
    loader, workloads, whole_s = TableLoader(store), traces(), 0.0
    for name in models:
        program = load_spec(SPECS / MODELS[name]).model(name)
        for workload in workloads:
            fits = workload.drop_longer_than(program.context_tokens)
            asked = Question({"declared": program}, shipped_skus(), AXES, (), Market(GPUS), 0)
            started = time.process_time()
            row = _best(asked, fits, loader)
            spent_s = time.process_time() - started
            whole_s += spent_s
            best = {x: row[x] for x in ("sku", "tp", "pp", "max_num_seqs", "max_batched_tokens")}
            yield {"model": name, "trace": workload.name, "cpu_s": spent_s, **best}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    configurations = len(models) * len(workloads) * len(AXES)
    yield {"model": "all", "configurations": configurations, "cpu_s": whole_s, "peak_mb": peak_mb}


def _best(asked: Question, workload: Workload, loader: TableLoader) -> Mapping[str, object]:
    space = asked.space(workload.mean_sequence_tokens)
    demand = asked.demand(workload, workload)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "search.jsonl"
        means = Means(loader, Here, lambda *_: None, journal, best_only=True, judged=False)
        return Searching(asked, space, demand, means).run().ranked[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="A search of the size of Vidur's.")
    parser.add_argument("--store", type=Path, help="keeps tables; none: all are built again")
    parser.add_argument("--model", choices=MODELS, action="append", help="not all of them")
    parser.add_argument("--placements", type=int, help="of each model, to try it out")
    parser.add_argument("--best-only", action="store_true", help="a race for each model and trace")
    asked = parser.parse_args()
    models = asked.model or tuple(MODELS)
    lines = (
        race_cost(asked.store, models)
        if asked.best_only
        else grid_cost(asked.store, models, asked.placements)
    )
    for line in lines:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
