"""What a search costs: CPU time per configuration, and the main job as a whole process, cold and warm.

    python benchmarks/search.py            # needs the real traces: SERVECAST_SHARED, default ../shared

Prints JSON. ``cold`` starts with empty caches (no store, no compiled engine), ``warm`` repeats it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.estimator.load import TableLoader
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import Capacity, Judge, find_capacity
from servecast.simulator.search.space import Axes, enumerate_space
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traces import TraceOptions, read_trace
from servecast.simulator.workload import Workload

REPOSITORY = Path(__file__).resolve().parent.parent
REQUESTS = 10_000
MAIN = ("spec/llama.llm", "--trace", "spec/traces/chat.csv", "--json", "--quiet")


def capacity_cost() -> dict[str, float]:
    """CPU milliseconds per configuration of a capacity search over the Azure conversation trace."""
    shared = Path(os.environ.get("SERVECAST_SHARED", REPOSITORY / "../shared"))
    trace = shared / "data/traces/azure-2023-conv.csv"
    workload = read_trace(trace, TraceOptions(num_requests=REQUESTS))
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


def upper(workload: Workload, fleet: Fleet) -> float:
    return max_rate_per_s(workload, fleet.tables, fleet.limits)


def main_job(cache: Path) -> dict[str, float]:
    """Wall and CPU seconds of ``compile-and-search``; ``peak_mb`` is of its largest process."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("compile-and-search")), *MAIN]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = main_job(Path(folder)), main_job(Path(folder))
    print(json.dumps({"main_cold": cold, "main_warm": warm, "capacity": capacity_cost()}, indent=2))


if __name__ == "__main__":
    main()
