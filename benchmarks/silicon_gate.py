"""Predicted against measured time to first token and per output token, over the public serving points.

    python benchmarks/silicon_gate.py ../shared/data/measured/silicon --store gate.duckdb --rows points.csv

Each row of dev.csv is a closed loop: C clients send 10 C prompts, every output token forced, no prefix reuse.
It is simulated from the public timings of its engine's kernels, with the settings of the scripts that
measured it. Prints errors by group beside AIConfigurator's, and why a row was not answered, as JSON. A row
that ``--rows`` has from the same tables, settings and engine's code is not simulated again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from silicon_answers import Answer, RowsFile, digest_of, known_answers, report
from silicon_collectives import import_collectives, sources_of
from silicon_placed import Placed, of_tables, place, table_bounds
from silicon_points import SHORTEST, Case, read_cases
from silicon_settings import Settings

from servecast.compiler.errors import UserError
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator import saved_tables
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.engine.modes import NO_MODES, Modes
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.engine.speculation import Speculation
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Workload

PROMPTS_PER_CLIENT = 10
ACCEPTANCE = (0.696, 0.696, 0.537)
"""Of DeepSeek's drafted tokens, each if those before it were accepted. SOURCE: lmsys.org/blog/2025-07-17-mtp:
a check of DeepSeek-V3 brings 2.18 tokens with two drafted and 2.44 with three; the first two of them are
taken for equally likely."""
ENGINE = (
    "simulator/engine",
    "simulator/reference",
    "simulator/traffic",
    "benchmarks/silicon_gate.py",
)
"""The code that turns tables and settings into times."""


def closed_loop(case: Case, clients: int, seed: int = 0) -> Workload:
    """The prompts in the order that the clients take them; the arrival times are not used."""
    num_requests = PROMPTS_PER_CLIENT * clients
    rng = stream(seed, f"silicon {case.isl} {case.osl} {case.concurrency}")
    shortest = SHORTEST if case.inferencex else 1.0
    prompt, output = (
        rng.integers(int(shortest * length), length + 1, num_requests)
        for length in (case.isl, case.osl)
    )
    return Workload(case.id, np.zeros(num_requests), np.maximum(prompt, 1), np.maximum(output, 1))


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier run answered, by what its rows came from, and this tree's engine."""

    code: str
    means_ms: Mapping[str, tuple[float, float]]


class Predictor:
    """Answers cases, keeping tables and buffers between them."""

    def __init__(
        self, store: Path, known: Known, sources: tuple[str, ...] = DEFAULT_SOURCES
    ) -> None:
        self._store, self._known, self._sources = store, known, sources
        self._engine = Engine()
        self._tables: tuple[str, RuntimeTables, str] | None = None
        self._means_ms = dict(known.means_ms)

    def answer(self, case: Case, placed: Placed, bounds: TableBounds) -> Answer:
        """Raises UserError: the point is beyond the tables."""
        tables, digest = self._tables_of(placed, bounds)
        modes, drafter = self._modes_of(placed, bounds)
        loop = (case.isl, case.osl, case.concurrency, case.parallelism.dp, case.inferencex)
        asked = repr((self._known.code, digest, drafter, placed.settings, placed.limits, loop))
        inputs = hashlib.sha256(asked.encode()).hexdigest()[:16]
        if inputs not in self._means_ms:  # several sources tell of one run
            ttft_s, tpot_s = self._means_s(case, placed, tables, modes)
            self._means_ms[inputs] = 1e3 * ttft_s, 1e3 * tpot_s
        return Answer(case, *self._means_ms[inputs], inputs)

    def _means_s(
        self, case: Case, placed: Placed, tables: RuntimeTables, modes: Modes
    ) -> tuple[float, float]:
        """By the client's clock."""
        settings = placed.settings
        if settings.engine.async_scheduling and not placed.limits.async_scheduling:
            tables = replace(tables, host_step_s=0.0)  # hidden behind the step
        fleet = Fleet(tables, placed.limits, policy=settings.policy, modes=modes)
        workload = closed_loop(case, -(-case.concurrency // case.parallelism.dp))
        away_s = settings.engine.client_s
        found = self._run(workload, fleet, settings, away_s)
        if settings.steps_before > 0:
            before_s = settings.steps_before * found[1]
            ttft_s, tpot_s = self._run(workload, fleet, settings, away_s + before_s)
            found = ttft_s + before_s, tpot_s
        return found[0] + away_s, found[1]

    def _run(
        self, workload: Workload, fleet: Fleet, settings: Settings, away_s: float
    ) -> tuple[float, float]:
        clients = len(workload) // PROMPTS_PER_CLIENT
        records = self._engine.run(workload, fleet, concurrency=clients, client_s=away_s)
        cut_at_s = first_cut_s(records, clients, fleet.limits.max_batched_tokens)
        return _means_s(records, cut_at_s, settings.first_cut_s)

    def _tables_of(self, placed: Placed, bounds: TableBounds) -> tuple[RuntimeTables, str]:
        key = placed.tables_key
        if self._tables is None or self._tables[0] != key:
            self._tables = key, *self._load(placed, placed.sharded, bounds)
        return self._tables[1], self._tables[2]

    def _modes_of(self, placed: Placed, bounds: TableBounds) -> tuple[Modes, str]:
        """And the digest of the drafter's tables."""
        if placed.drafter is None:
            return NO_MODES, ""
        tables, digest = self._load(placed, placed.drafter, bounds)
        drafted = placed.settings.drafted
        lengths, accepted = (0.0,) * drafted + (1.0,), ACCEPTANCE[:drafted]
        return Modes(speculation=Speculation(lengths, accepted, drafter=tables)), digest

    def _load(
        self, placed: Placed, sharded: ShardedProgram, bounds: TableBounds
    ) -> tuple[RuntimeTables, str]:
        loader = TableLoader(self._store, self._sources, of_tables(placed.settings.engine))
        tables = loader.tables(sharded, placed.sku, bounds)
        return tables, hashlib.sha256(saved_tables.to_bytes(tables)).hexdigest()


def first_cut_s(records: Records, clients: int, budget: int) -> float:
    """When the first step ends, if all clients' first prompts are more than it holds; else never."""
    if records.prompt_tokens[:clients].sum() <= budget:
        return np.inf
    whole = np.cumsum(records.prompt_tokens[:clients]) <= budget
    return float(records.first_token_s[:clients][whole].max(initial=0.0))


def _means_s(records: Records, stands_at_s: float, stands_s: float) -> tuple[float, float]:
    """Mean TTFT, and mean TPOT, of the requests that finished, if the engine had stood still for so long."""
    done = records.finished & (records.output_tokens > 1)
    if not done.any():
        raise UserError("no request fits the KV cache")
    times = (records.arrival_s[done], records.first_token_s[done], records.finish_s[done])
    sent_s, first_s, end_s = (at_s + stands_s * (at_s > stands_at_s) for at_s in times)
    tpot_s = (end_s - first_s) / (records.output_tokens[done] - 1)
    return float((first_s - sent_s).mean()), float(tpot_s.mean())


Refused = dict[str, str]


def answer_all(
    cases: Sequence[Case], store: Path, known: Known
) -> tuple[list[Answer], list[Refused]]:
    """Answers, and refusals with their reason."""
    answers, refused = [], []
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[Case, Placed]]] = defaultdict(list)
    for case in cases:
        try:
            placed = place(case)
            groups[placed.tables_key, sources_of(case)].append((case, placed))
        except UserError as error:
            refused.append({"id": case.id, "model": case.model, "reason": str(error)})
    for (_, sources), pairs in groups.items():
        import_collectives(store, pairs[0][0])
        predictor = Predictor(store, known, sources)
        bounds = table_bounds([placed for _, placed in pairs])
        for case, placed in pairs:
            try:
                answers.append(predictor.answer(case, placed, bounds))
            except UserError as error:
                refused.append({"id": case.id, "model": case.model, "reason": str(error)})
    return answers, refused


def run(
    cases: Iterable[Case], store: Path, rows: RowsFile, known: Known, jobs: int
) -> tuple[list[Answer], list[Refused]]:
    """In so many processes, each GPU and engine with a store of its own; rows are written as they come."""
    parts: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        parts[f"{case.system}-{case.backend}"].append(case)
    answers: list[Answer] = []
    refused: list[Refused] = []
    with ProcessPoolExecutor(jobs) as pool:
        largest_first = sorted(parts.items(), key=lambda part: -len(part[1]))
        waiting = [
            pool.submit(answer_all, part, store.with_stem(f"{store.stem}-{name}"), known)
            for name, part in largest_first
        ]
        for done in as_completed(waiting):
            some, without = done.result()
            rows.write(some)
            answers, refused = answers + some, refused + without
    return answers, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="one is kept for each part")
    parser.add_argument("--dense", action="store_true", help="dense models only")
    parser.add_argument("--system", action="append", help="h100_sxm, …; all by default")
    parser.add_argument("--backend", action="append", help="vllm, …; all by default")
    parser.add_argument("--model", action="append", help="part of a model's name; all by default")
    parser.add_argument("--every", type=int, default=1, help="only each n-th of those rows")
    parser.add_argument("--rows", type=Path, help="write every answer as CSV")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    asked = parser.parse_args()
    cases = [
        case
        for case in read_cases(asked.folder)
        if (not asked.dense or case.is_dense)
        and (not asked.system or case.system in asked.system)
        and (not asked.backend or case.backend in asked.backend)
        and (not asked.model or any(name in case.model for name in asked.model))
    ][:: asked.every]
    known = Known(digest_of(ENGINE), known_answers(asked.rows))
    with RowsFile(asked.rows) as rows:
        found, refused = run(cases, asked.store, rows, known, asked.jobs)
    print(json.dumps(report(cases, found, refused), indent=1))


if __name__ == "__main__":
    main()
