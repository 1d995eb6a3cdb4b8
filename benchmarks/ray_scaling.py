"""How much faster two workers of a Ray cluster search than one, each with a core of its own.

    python benchmarks/ray_scaling.py                       # needs the ray extra; about two minutes

Starts a cluster on this machine: times a search on one node of one CPU, adds a second and times it again.
Beside it stand one process of this machine and two, without Ray: nodes that share a machine cannot gain more
than processes of it do. Tables are built before, as a long search hides them behind its work.

Prints JSON. ``ratio`` is one worker's time over that of all, ``ratio_without_ray`` the same of processes.
``command_cpu_s`` is the CPU time that handing out the work and taking in the answers takes here.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.simulator.search.market import Market
from servecast.simulator.search.pool import Pool, Processes
from servecast.simulator.search.question import Question
from servecast.simulator.search.ray_pool import ray_pool
from servecast.simulator.search.run import search
from servecast.simulator.search.searching import shape
from servecast.simulator.search.space import Axes, Placement
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.traces import read_trace

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_GPUS = 16
SEQS, TOKENS = (24, 32, 48, 64, 96, 128, 192, 256), (256, 512, 1024, 2048, 3072, 4096, 6144, 8192)
NODE = {"num_cpus": 1, "object_store_memory": 200_000_000}


class Job:
    """One search, its tables built."""

    def __init__(self, requests: int, placements: int, sources: Sequence[str]) -> None:
        trace = read_trace(REPOSITORY / "spec/traces/chat.csv")
        self.question = Question(
            programs={"": load_spec(REPOSITORY / "spec/llama.llm").model()},
            skus=shipped_skus(),
            axes=Axes(("h100-sxm",), (1, 2, 4, 8), (1, 2), SEQS, TOKENS),
            slos=(Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2)),
            market=Market(MAX_GPUS),
            seed=0,
        )
        self.demand = self.question.demand(trace, bootstrap(trace, requests, seed=0))
        self.placements = self.question.space(trace.mean_sequence_tokens).placements[:placements]
        loader = TableLoader(None, sources)
        self.tables = {p.label: loader.tables(p.sharded, p.sku, bounds(p)) for p in self.placements}

    def seconds(self, pool: Pool, placements: Sequence[Placement]) -> float:
        started = time.perf_counter()
        found = search(
            placements,
            lambda placement: self.tables[placement.label],
            pool,
            lambda placement: shape(self.question, placement),
        )
        assert list(found)
        return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Timed:
    """The least wall seconds of some searches, for what else runs on the machine only adds, and their mean
    CPU seconds in this process."""

    wall_s: float
    command_cpu_s: float


def timed(job: Job, pool: Pool, repeats: int) -> Timed:
    """After the search of one placement, which starts and compiles everything."""
    job.seconds(pool, job.placements[:1])
    before_s = time.process_time()
    wall_s = min(job.seconds(pool, job.placements) for _ in range(repeats))
    cpu_s = (time.process_time() - before_s) / repeats
    pool.close(now=False)
    return Timed(wall_s, cpu_s)


@contextmanager
def one_node() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2, help="of one CPU each, on this machine")
    parser.add_argument("--requests", type=int, default=10_000, help="of each simulation")
    parser.add_argument("--repeats", type=int, default=3, help="of each search; the least counts")
    parser.add_argument("--placements", type=int, default=8, help="of 64 configurations each")
    parser.add_argument("--source", nargs="*", default=DEFAULT_SOURCES, help="of operator times")
    asked = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    job = Job(asked.requests, asked.placements, asked.source)
    with one_node() as cluster:
        one = timed(job, ray_pool(job.demand, cluster.address), asked.repeats)
        for _ in range(asked.nodes - 1):
            cluster.add_node(**NODE)
        many = timed(job, ray_pool(job.demand, cluster.address), asked.repeats)
    alone = timed(job, Processes(job.demand, 1), asked.repeats)
    processes = timed(job, Processes(job.demand, asked.nodes), asked.repeats)
    found = {
        "configurations": sum(len(p.candidates) for p in job.placements),
        "workers": asked.nodes,
        "one_worker_s": one.wall_s,
        "workers_s": many.wall_s,
        "ratio": one.wall_s / many.wall_s,
        "one_process_s": alone.wall_s,
        "processes_s": processes.wall_s,
        "ratio_without_ray": alone.wall_s / processes.wall_s,
        "command_cpu_s": many.command_cpu_s,
        "load_1min": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
