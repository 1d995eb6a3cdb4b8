"""How much faster the workers of a Ray cluster search than one process of this machine.

    python benchmarks/ray_scaling.py --ray HEAD:6379       # needs the ray extra

Times the search itself in both: tables are built before, as a long search hides them behind its work. Prints
JSON with the load of the machine, and what as many processes of this machine gain without Ray: nodes that
share it (docs/ray.md, with ``--num-cpus 1``) cannot gain more. ``command_cpu_s`` is the CPU time that handing
out the work and taking in the answers takes here, besides Ray's own processes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.estimator.load import TableLoader
from servecast.simulator.search.market import Market
from servecast.simulator.search.pool import Pool, Processes
from servecast.simulator.search.question import Question
from servecast.simulator.search.ray_pool import ray_pool
from servecast.simulator.search.run import search
from servecast.simulator.search.searching import shape
from servecast.simulator.search.space import Axes
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.traces import read_trace

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_GPUS = 16
SEQS, TOKENS = (24, 32, 48, 64, 96, 128, 192, 256), (256, 512, 1024, 2048, 3072, 4096, 6144, 8192)
REPEATS = 3
"""The least of them is kept: what else runs on the machine only adds."""


class Job:
    """One search, its tables built."""

    def __init__(self, requests: int) -> None:
        trace = read_trace(REPOSITORY / "spec/traces/chat.csv")
        self.question = Question(
            programs={"": load_spec(REPOSITORY / "spec/llama.llm").model()},
            skus=shipped_skus(),
            axes=Axes(("h100-sxm",), (1, 2, 4), (1,), SEQS, TOKENS),
            slos=(Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2)),
            market=Market(MAX_GPUS),
            seed=0,
        )
        self.demand = self.question.demand(trace, bootstrap(trace, requests, seed=0))
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


def timed(job: Job, pool: Pool) -> tuple[float, float]:
    """Least wall seconds, and mean CPU seconds here, after a search that starts and compiles everything."""
    job.seconds(pool)
    before_s = time.process_time()
    seconds = min(job.seconds(pool) for _ in range(REPEATS))
    cpu_s = (time.process_time() - before_s) / REPEATS
    pool.close(now=False)
    return seconds, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", required=True, metavar="HOST:PORT", help="of the cluster")
    parser.add_argument("--requests", type=int, default=10_000, help="of each simulation")
    asked = parser.parse_args()
    job = Job(asked.requests)
    one_s, _ = timed(job, Processes(job.demand, 1))
    cluster = ray_pool(job.demand, asked.ray)
    workers = cluster.slots
    cluster_s, cpu_s = timed(job, cluster)
    processes_s, _ = timed(job, Processes(job.demand, workers))
    found = {
        "configurations": sum(len(p.candidates) for p in job.placements),
        "workers": workers,
        "one_process_s": one_s,
        "cluster_s": cluster_s,
        "as_many_processes_s": processes_s,
        "ratio": one_s / cluster_s,
        "ratio_without_ray": one_s / processes_s,
        "command_cpu_s": cpu_s,
        "load_1min": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
