"""A Ray cluster of one-core nodes (two, or as many as its argument says) on this machine. Needs ``ray``.

A process of its own: Ray warns, listens and logs as it likes. It says what it did and does what it is told in
JSON lines: ``{"address": …}`` when the nodes are up, and ``{"killed": …}`` after the line ``kill`` on its
standard input, once the last node was in the middle of a task. It ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

OBJECT_STORE_BYTES = 100_000_000
LIMITS = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
TASK_TITLE = b"ray::_run"
"""What Ray calls a process while it runs a task of `simulator/search/ray_pool.py`."""
IN_TASK_S = 0.3
POLL_S = 0.05


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def raylet_pid(node: object) -> int:
    (process,) = node.all_processes["raylet"]  # type: ignore[attr-defined]  # ray._private.node.Node
    return int(process.process.pid)


def in_task(raylet: int) -> bool:
    """Whether a worker of the node runs a task of ours."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            title = folder.joinpath("cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if parent == raylet and title.startswith(TASK_TITLE):
            return True
    return False


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=LIMITS)
    num_nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    nodes = [
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        for _ in range(num_nodes - 1)
    ]
    say(address=cluster.address)
    try:
        for line in sys.stdin:
            if line.strip() == "kill":
                while not in_task(raylet_pid(nodes[-1])):
                    time.sleep(POLL_S)
                time.sleep(IN_TASK_S)  # into the task
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                say(killed=cluster.address)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
