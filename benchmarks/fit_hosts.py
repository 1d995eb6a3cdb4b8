"""Fit the time outside the engine, by engine, release and host type, on the points of one half of the models.

    python benchmarks/fit_hosts.py ../shared/data/measured/silicon points.csv

``client_s`` is what a client's clock sees beside the engine: HTTP, tokenising, launches of prefill from the
host, the client itself. ``points.csv`` is what silicon_gate.py wrote. The models it may be fitted to are
`silicon_points.FITTED`; the others are only looked at. Prints the best by the median TTFT error as
`silicon_settings.CLIENT_S` holds it, with the error of those points before and after; then, by weights and
day, what SGLang stood still for when it first cut a prompt (`FIRST_CUT_S`), where points tell no release.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
from silicon_gate import closed_loop
from silicon_points import Case, read_cases
from silicon_settings import client_s_of, host_of, settings_of

TRIED_S = tuple(0.005 * i for i in range(61))
CUTS_S = tuple(float(seconds) for seconds in range(0, 201))
MOST_CLIENTS = 64  # more are queues, which say nothing of the host
LEAST_POINTS = 10


def error(pairs: list[tuple[Case, float]], client_s: float) -> float:
    """Median absolute TTFT error; pairs of a case and the milliseconds that its engine took."""
    return statistics.median(abs((ms + 1e3 * client_s) / case.ttft_ms - 1) for case, ms in pairs)


def cut_share(case: Case) -> float:
    """Of a point's requests, those that wait for what the first step had no room for."""
    first = closed_loop(case, case.concurrency).prompt_tokens[: case.concurrency]
    whole = np.cumsum(first) <= settings_of(case).max_batched_tokens
    return 0.1 * (1 - float(whole.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=Path)
    asked = parser.parse_args()
    cases = {case.id: case for case in read_cases(asked.folder)}
    groups: dict[tuple[str, str, str], list[tuple[Case, float]]] = defaultdict(list)
    tpot: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    cuts: dict[tuple[str, str], list[tuple[Case, float]]] = defaultdict(list)
    with asked.points.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            case = cases[row["id"]]
            if not (case.is_fitted and case.inferencex):
                continue
            seen_ms = float(row["ttft_predicted_ms"])
            if case.backend == "sglang" and not case.version:
                stood_ms = 1e3 * cut_share(case) * settings_of(case).first_cut_s
                cuts[case.precision, case.measured].append((case, seen_ms - stood_ms))
            elif case.concurrency <= MOST_CLIENTS:
                engine_ms = seen_ms - 1e3 * client_s_of(case)
                groups[host_of(case)].append((case, engine_ms))
                tpot[host_of(case)].append(abs(float(row["tpot_predicted_ms"]) / case.tpot_ms - 1))
    for host, pairs in sorted(groups.items()):
        if len(pairs) >= LEAST_POINTS:
            best = min(TRIED_S, key=lambda client_s: error(pairs, client_s))
            told = f"{len(pairs)} points: {error(pairs, 0.0):.1%} -> {error(pairs, best):.1%}"
            print(f"{host}: {best:g},  # {told}; TPOT {statistics.median(tpot[host]):.1%}")
    for run, pairs in sorted(cuts.items()):
        if len(pairs) < LEAST_POINTS:
            continue
        best = min(CUTS_S, key=lambda cut_s: cut_error(pairs, cut_s))
        told = f"{len(pairs)} points: {cut_error(pairs, 0.0):.1%} -> {cut_error(pairs, best):.1%}"
        print(f"{run}: {best:g},  # first cut, {told}")


def cut_error(pairs: list[tuple[Case, float]], cut_s: float) -> float:
    """Median absolute TTFT error; pairs of a case and the milliseconds that it took without."""
    return statistics.median(
        abs((ms + 1e3 * cut_s * cut_share(case)) / case.ttft_ms - 1) for case, ms in pairs
    )


if __name__ == "__main__":
    main()
