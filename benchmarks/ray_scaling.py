"""How much faster two Ray workers of one core each search than one.

    python benchmarks/ray_scaling.py       # needs the ray extra

Starts a cluster of one and of two one-core nodes on this machine and times the search itself on both: tables
are built before, as a long search hides them behind its work. Prints JSON with the load of the machine, which
needs three idle cores for the ratio to mean anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.estimator.load import TableLoader
from servecast.simulator.search.market import Market
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.question import Question
from servecast.simulator.search.ray_pool import ray_pool
from servecast.simulator.search.run import search
from servecast.simulator.search.searching import shape
from servecast.simulator.search.space import Axes
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.traces import read_trace

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER = REPOSITORY / "tests/integration/ray_cluster.py"
REQUESTS = 10_000
MAX_GPUS = 16
SEQS, TOKENS = (32, 64, 128, 256), (256, 512, 1024, 2048, 3072, 4096, 6144, 8192)
REPEATS = 3
"""The least of them is kept: what else runs on the machine only adds."""


class Job:
    """One search, its tables built."""

    def __init__(self) -> None:
        trace = read_trace(REPOSITORY / "spec/traces/chat.csv")
        self.question = Question(
            programs={"": load_spec(REPOSITORY / "spec/llama.llm").model()},
            skus=shipped_skus(),
            axes=Axes(("h100-sxm",), (1, 2, 4), (1,), SEQS, TOKENS),
            slos=(Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2)),
            market=Market(MAX_GPUS),
            seed=0,
        )
        self.demand = self.question.demand(trace, bootstrap(trace, REQUESTS, seed=0))
        self.placements = self.question.space(trace.mean_sequence_tokens).placements
        loader = TableLoader(None)
        self.tables = {p.label: loader.tables(p.sharded, p.sku, bounds(p)) for p in self.placements}

    def seconds(self, pool: Pool) -> float:
        started = time.perf_counter()
        found = search(
            self.placements,
            lambda placement: self.tables[placement.label],
            pool,
            lambda placement: shape(self.question, placement),
        )
        assert list(found)
        return time.perf_counter() - started


def timed(job: Job, num_nodes: int) -> float:
    """Least wall seconds on that many nodes, after a first search that starts and compiles everything."""
    cluster = subprocess.Popen(
        [sys.executable, str(CLUSTER), str(num_nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        address = next(
            json.loads(line)["address"] for line in cluster.stdout if line.startswith("{")
        )
        pool = ray_pool(job.demand, address)
        job.seconds(pool)
        seconds = min(job.seconds(pool) for _ in range(REPEATS))
        pool.close(now=False)
    finally:
        cluster.stdin.close()
        cluster.wait()
    return seconds


def main() -> None:
    job = Job()
    one_s, two_s = timed(job, 1), timed(job, 2)
    found = {
        "configurations": sum(len(p.candidates) for p in job.placements),
        "one_worker_s": one_s,
        "two_workers_s": two_s,
        "ratio": one_s / two_s,
        "load_1min": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
