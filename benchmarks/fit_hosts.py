"""Fit the time outside the engine, by engine, release and host type, on the points of one half of the models.

    python benchmarks/fit_hosts.py ../shared/data/measured/silicon points.csv

``client_s`` is what a client's clock sees beside the engine: HTTP, tokenising, launches of prefill from the
host, the client itself. ``points.csv`` is what silicon_gate.py wrote. The models it may be fitted to are
`silicon_points.FITTED`; the others are only looked at. Prints the best by the median TTFT error as
`silicon_settings.CLIENT_S` holds it, with the error of those points before and after.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

from silicon_points import Case, read_cases
from silicon_settings import CLIENT_S, host_of

TRIED_S = tuple(0.005 * i for i in range(61))
MOST_CLIENTS = 64  # more are queues, which say nothing of the host
LEAST_POINTS = 10


def error(pairs: list[tuple[Case, float]], client_s: float) -> float:
    """Median absolute TTFT error; pairs of a case and the milliseconds that its engine took."""
    return statistics.median(abs((ms + 1e3 * client_s) / case.ttft_ms - 1) for case, ms in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=Path)
    asked = parser.parse_args()
    cases = {case.id: case for case in read_cases(asked.folder)}
    groups: dict[tuple[str, str, str], list[tuple[Case, float]]] = defaultdict(list)
    tpot: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with asked.points.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            case = cases[row["id"]]
            host = host_of(case)
            if case.is_fitted and case.inferencex and case.concurrency <= MOST_CLIENTS:
                engine_ms = float(row["ttft_predicted_ms"]) - 1e3 * CLIENT_S.get(host, 0.0)
                groups[host].append((case, engine_ms))
                tpot[host].append(abs(float(row["tpot_predicted_ms"]) / case.tpot_ms - 1))
    for host, pairs in sorted(groups.items()):
        if len(pairs) >= LEAST_POINTS:
            best = min(TRIED_S, key=lambda client_s: error(pairs, client_s))
            told = f"{len(pairs)} points: {error(pairs, 0.0):.1%} -> {error(pairs, best):.1%}"
            print(f"{host}: {best:g},  # {told}; TPOT {statistics.median(tpot[host]):.1%}")


if __name__ == "__main__":
    main()
