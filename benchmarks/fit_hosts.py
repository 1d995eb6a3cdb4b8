"""Fit the time outside the engine, by engine and host type, on the points of one half of the models.

    python benchmarks/fit_hosts.py ../shared/data/measured/silicon --store silicon.duckdb

``client_s`` is what a client's clock sees beside the engine: HTTP, tokenising, the client itself. The
models it may be fitted to are `silicon_points.FITTED`; the others are only looked at. Prints for each value
tried the median TTFT error, and the best as `silicon_points.CLIENT_S` holds it.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from silicon_gate import Case, Placed, Predictor, place, table_bounds
from silicon_points import read_cases

from servecast.compiler.errors import UserError

TRIED_S = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
MOST_CLIENTS = 64  # more are queues, which say nothing of the host


def fit(pairs: list[tuple[Case, Placed]], store: Path) -> dict[float, float]:
    """Median absolute TTFT error by ``client_s``."""
    predictor = Predictor(store)
    bounds = {key: table_bounds([p for _, p in group]) for key, group in _by_tables(pairs).items()}
    errors: dict[float, list[float]] = defaultdict(list)
    for case, placed in pairs:
        for client_s in TRIED_S:
            answer = predictor.answer(case, placed, bounds[placed.tables_key], client_s)
            errors[client_s].append(abs(answer.ttft_ms / case.ttft_ms - 1))
    return {client_s: statistics.median(found) for client_s, found in errors.items()}


def _by_tables(pairs: list[tuple[Case, Placed]]) -> dict[str, list[tuple[Case, Placed]]]:
    groups: dict[str, list[tuple[Case, Placed]]] = defaultdict(list)
    for case, placed in pairs:
        groups[placed.tables_key].append((case, placed))
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--backend", action="append", help="vllm, …; all by default")
    parser.add_argument("--system", action="append", help="h100_sxm, …; all by default")
    parser.add_argument("--every", type=int, default=1, help="only each n-th point")
    asked = parser.parse_args()
    groups: dict[tuple[str, str], list[tuple[Case, Placed]]] = defaultdict(list)
    for case in read_cases(asked.folder):
        wanted = not asked.backend or case.backend in asked.backend
        wanted = wanted and (not asked.system or case.system in asked.system)
        if wanted and case.is_fitted and case.inferencex and case.concurrency <= MOST_CLIENTS:
            try:
                groups[case.backend, case.system].append((case, place(case)))
            except UserError:
                continue
    for (backend, system), pairs in sorted(groups.items()):
        pairs = sorted(pairs, key=lambda pair: pair[1].tables_key)[:: asked.every]
        found = fit(pairs, asked.store)
        best = min(found, key=lambda client_s: found[client_s])
        tried = "  ".join(f"{1e3 * s:g} ms {error:.1%}" for s, error in found.items())
        print(f'("{backend}", "{system}"): {best:g},  # {len(pairs)} points: {tried}', flush=True)


if __name__ == "__main__":
    main()
