"""The timeline of a long run: how large its file is, how long it takes, and that equal runs give equal bytes.

    python benchmarks/timeline.py [REQUESTS]    # one million by default

Prints JSON. Chat requests at 8 a second and replica, on the invented tables of ``benchmarks/engine.py``: what
the file holds does not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from engine import LIMITS, invented_tables

from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.report.timeline import write_timeline
from servecast.simulator.traffic.arrival_processes import Poisson
from servecast.simulator.traffic.kinds import Draw, draw_workload

REPLICAS = 12
RATE_PER_S = 8.0 * REPLICAS


def written(records: Records, path: Path) -> tuple[float, str]:
    """Seconds of CPU, and the hash of what was written."""
    started = time.process_time()
    with path.open("w", encoding="utf-8") as file:
        write_timeline(records, file)
    return time.process_time() - started, hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    workload = draw_workload("chat", Draw(requests, RATE_PER_S, Poisson()))
    fleet = Fleet(invented_tables(1), LIMITS, REPLICAS)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "timeline.json"
        seconds, first = written(Engine().run(workload, fleet), path)
        _, second = written(Engine().run(workload, fleet), path)
        shown = json.loads(path.read_text(encoding="utf-8"))["otherData"]
        size = path.stat().st_size
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                **shown,
                "file_mb": size / 1e6,
                "cpu_s": seconds,
                "peak_gb": peak_bytes / 1e9,
                "equal_bytes": first == second,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
