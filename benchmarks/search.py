"""What a search costs: CPU time per configuration, and the main job as a whole process, cold and warm.

    python benchmarks/search.py    # needs the real traces: SERVECAST_SHARED, default ../shared

A search of the size of Vidur's is vidur_grid.py. Prints JSON. ``cold`` starts with empty caches (no store,
no compiled engine), ``warm`` repeats it, ``many`` has several times the configurations: its peak memory is
what more of them cost. ``first_result_s`` is from the process's start to the first configuration that is
done, ``kb_per_configuration`` how much more memory than the warm one it took at most for each that it has
more. ``best_only`` is a race over the configurations of ``capacity``, and more of them. ``goals`` are what is
asked of three of these figures, and whether it is met.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.hardware import Sku
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.commands.search_job import JOURNAL
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.search.bisection import find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import Capacity, Judge
from servecast.simulator.search.market import Market
from servecast.simulator.search.pool import Here
from servecast.simulator.search.question import Question
from servecast.simulator.search.searching import Means, Searching
from servecast.simulator.search.space import Axes, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.traces import TraceOptions, read_trace
from servecast.simulator.traffic.workload import Workload

REPOSITORY = Path(__file__).resolve().parent.parent
REQUESTS = 10_000
MAIN = ("spec/llama.llm", "--trace", "spec/traces/chat.csv", "--json", "--quiet")
SEQS, TOKENS = (48, 64, 96, 128, 160, 192, 224, 256), (512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
MANY = (
    "--max-num-seqs",
    ",".join(map(str, SEQS)),
    "--max-num-batched-tokens",
    ",".join(map(str, TOKENS)),
)
GOALS = (
    ("capacity", "cpu_ms_per_configuration", 20.0),
    ("best_only", "cpu_ms_per_configuration", 5.0),
    ("main_warm", "first_result_s", 3.0),
)
"""No more is wanted, on one core."""
LOOK_S = 0.005
"""Between two looks for the first result."""


def capacity_cost() -> dict[str, float]:
    """CPU milliseconds per configuration of a capacity search over the Azure conversation trace."""
    workload = read_trace(conversation(), TraceOptions(num_requests=REQUESTS))
    program = load_spec(REPOSITORY / "spec/llama.llm").model()
    axes = Axes(("h100-sxm",), (1, 2), (1,), (64, 128, 256), (512, 2048, 8192))
    space = enumerate_space(program, axes, shipped_skus(), 16)
    loader = TableLoader(None)
    judge = Judge(workload, (Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2)), Engine())
    fleets = [
        Fleet(loader.tables(p.sharded, p.sku, bounds(p)), candidate.limits)
        for p in space.placements
        for candidate in p.candidates
    ]
    find_capacity(judge, fleets[0], upper(workload, fleets[0]))  # compiles
    started = time.process_time()
    found = [find_capacity(judge, fleet, upper(workload, fleet)) for fleet in fleets]
    cpu_s = time.process_time() - started
    return {
        "configurations": len(found),
        "probes_per_configuration": sum(f.probes for f in found if isinstance(f, Capacity))
        / len(found),
        "cpu_ms_per_configuration": 1e3 * cpu_s / len(found),
    }


def conversation() -> Path:
    shared = Path(os.environ.get("SERVECAST_SHARED", REPOSITORY / "../shared"))
    return shared / "data/traces/azure-2023-conv.csv"


def upper(workload: Workload, fleet: Fleet) -> float:
    return max_rate_per_s(workload, fleet.tables, fleet.limits)


def main_job(cache: Path, *more: str) -> dict[str, float]:
    """Wall and CPU seconds of ``compile-and-search``; ``peak_mb`` is of the largest of its processes."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
    }
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        program = str(Path(sys.executable).with_name("compile-and-search"))
        command = [program, *MAIN, *more, "--out", out]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
        )
        ended = 0
        while ended == 0 and not (Path(out) / JOURNAL).exists():
            time.sleep(LOOK_S)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        first_s = time.perf_counter() - started
        if ended == 0:
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        told = json.loads((Path(out) / "results.json").read_text(encoding="utf-8"))
    return {
        "configurations": len(told["ranked"]) + len(told["infeasible"]),
        "first_result_s": first_s,
        "wall_s": time.perf_counter() - started,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


class KeptTables(TableLoader):
    """Loads each placement's tables once: their cost is not the search's."""

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        key = (sharded.parallelism, sku.name)
        if key not in KEPT:
            KEPT[key] = super().tables(sharded, sku, bounds)
        return KEPT[key]


KEPT: dict[tuple[Parallelism, str], RuntimeTables] = {}


def race_cost() -> dict[str, float]:
    """CPU milliseconds per configuration of the best alone, and that the whole search has the same best."""
    workload = read_trace(conversation(), TraceOptions(num_requests=REQUESTS))
    axes = Axes(("h100-sxm", "a100-sxm-80gb"), (1, 2, 4), (1,), (64, 128, 256), (512, 2048, 8192))
    slos = (Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2))
    program = load_spec(REPOSITORY / "spec/llama.llm").model()
    asked = Question({"declared": program}, shipped_skus(), axes, slos, Market(16), 0)
    space = asked.space(workload.mean_sequence_tokens)
    loader, pool = KeptTables(None), Here(asked.demand(workload, workload))
    for placement in space.placements:
        loader.tables(placement.sharded, placement.sku, bounds(placement))

    def cost_s(best_only: bool) -> tuple[float, object]:
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "search.jsonl"
            means = Means(loader, lambda _: pool, lambda *_: None, journal, best_only=best_only)
            search = Searching(asked, space, asked.demand(workload, workload), means)
            started = time.process_time()
            outcomes = list(search.outcomes_from(pool))
            spent_s = time.process_time() - started
        search.outcomes = outcomes
        return spent_s, search.ranking().ranked[0]["qps_per_usd_hour"]

    race_s, winner = cost_s(best_only=True)
    whole_s, best = cost_s(best_only=False)
    return {
        "configurations": len(space),
        "cpu_ms_per_configuration": 1e3 * race_s / len(space),
        "cpu_ms_per_configuration_of_all": 1e3 * whole_s / len(space),
        "same_best": winner == best,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = main_job(Path(folder)), main_job(Path(folder))
        many = main_job(Path(folder), *MANY)
    costs = {"capacity": capacity_cost(), "best_only": race_cost()}
    costs = {"main_cold": cold, "main_warm": warm, "main_many": many, **costs}
    more = many["configurations"] - warm["configurations"]
    many["kb_per_configuration"] = 1024 * (many["peak_mb"] - warm["peak_mb"]) / more
    goals = [
        {"of": of, "figure": name, "at_most": most, "met": costs[of][name] <= most}
        for of, name, most in GOALS
    ]
    load = os.getloadavg()[0]
    print(json.dumps({**costs, "goals": goals, "load_1min": load}, indent=2))


if __name__ == "__main__":
    main()
