"""Predicted against measured time to first token and per output token, over the public serving points.

    python benchmarks/silicon_gate.py ../shared/data/measured/silicon --store silicon.duckdb --dense

Each row of dev.csv is a closed loop: C clients send 10 C prompts, every output token forced, no prefix reuse.
It is simulated from the public timings of its engine's kernels, with the settings of the scripts that
measured it. Prints errors by group beside AIConfigurator's, and why a row was not answered, as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from silicon_answers import Answer, RowsFile, read_answers, report
from silicon_points import SHORTEST, Case, program_of, read_cases
from silicon_settings import Settings, settings_of

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.shard import shard
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.engine_profile import EngineProfile
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Workload

PROMPTS_PER_CLIENT = 10
BLOCK_TOKENS = 16


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
class Placed:
    """A case on its GPUs: what every rank runs, and the engine's limits there."""

    settings: Settings
    sku: Sku
    sharded: ShardedProgram
    limits: EngineLimits

    @property
    def tables_key(self) -> str:
        """Cases that share it take the same times."""
        return repr((self.sku.name, self.sharded, _of_tables(self.settings.engine)))


def place(case: Case) -> Placed:
    """
    Raises:
        UserError: no spec, no such GPU, or the weights leave no room.
    """
    settings, skus = settings_of(case), shipped_skus()
    program = program_of(case.model, case.precision, settings.kv_cache)
    if case.sku not in skus:
        raise UserError(f"unknown SKU {case.sku!r}")
    sku, degrees = skus[case.sku], case.parallelism
    if degrees.tp > sku.gpus_per_node:
        raise UserError("a fleet's GPUs, labelled as one tensor-parallel group")
    sharded = shard(program, degrees)
    limits = EngineLimits(
        settings.max_num_seqs,
        max(settings.max_batched_tokens, settings.max_num_seqs),
        kv_blocks(sharded, sku.memory_bytes, settings, case.isl + case.osl),
        BLOCK_TOKENS,
        async_scheduling=settings.engine.async_scheduling and settings.policy == "vllm_v1",
    )
    return Placed(settings, sku, sharded, limits)


def _of_tables(engine: EngineProfile) -> EngineProfile:
    """What of a profile the tables depend on."""
    return replace(engine, async_scheduling=False, client_s=0.0, receive_every_steps=1, sources={})


class Predictor:
    """Answers cases, keeping tables and buffers between them."""

    def __init__(self, store: Path, sources: tuple[str, ...] = DEFAULT_SOURCES) -> None:
        self._store, self._sources = store, sources
        self._engine = Engine()
        self._tables: tuple[str, RuntimeTables] | None = None
        self._means_s: dict[str, tuple[float, float]] = {}

    def answer(self, case: Case, placed: Placed, bounds: TableBounds) -> Answer:
        """Raises UserError: the point is beyond the tables."""
        asked = (placed.tables_key, placed.settings, placed.limits, case.isl, case.osl)
        key = repr((*asked, case.concurrency, case.inferencex))  # several sources tell of one run
        if key not in self._means_s:
            self._means_s[key] = self._means(case, placed, bounds)
        ttft_s, tpot_s = self._means_s[key]
        client_s = placed.settings.engine.client_s
        return Answer(case, 1e3 * (ttft_s + client_s), 1e3 * tpot_s)

    def _means(self, case: Case, placed: Placed, bounds: TableBounds) -> tuple[float, float]:
        tables, policy = self._tables_of(placed, bounds), placed.settings.policy
        if policy != "vllm_v1" and placed.settings.engine.async_scheduling:
            tables = replace(tables, host_step_s=0.0)  # hidden behind the step
        fleet = Fleet(tables, placed.limits, policy=policy)
        clients = -(-case.concurrency // case.parallelism.dp)
        before_s = 0.0
        records = self._run(case, clients, fleet, before_s)
        if placed.settings.steps_before > 0:
            before_s = placed.settings.steps_before * _means_s(records)[1]
            records = self._run(case, clients, fleet, before_s)
        ttft_s, tpot_s = _means_s(records)
        return ttft_s + before_s, tpot_s

    def _run(self, case: Case, clients: int, fleet: Fleet, between_s: float) -> Records:
        workload = closed_loop(case, clients)
        return self._engine.run(workload, fleet, concurrency=clients, client_s=between_s)

    def _tables_of(self, placed: Placed, bounds: TableBounds) -> RuntimeTables:
        key = placed.tables_key
        if self._tables is None or self._tables[0] != key:
            loader = TableLoader(self._store, self._sources, _of_tables(placed.settings.engine))
            self._tables = key, loader.tables(placed.sharded, placed.sku, bounds)
        return self._tables[1]


def kv_blocks(sharded: ShardedProgram, memory: int, settings: Settings, longest: int) -> int:
    """By each engine's own rule.

    Raises:
        UserError: nothing is left for the cache.
    """

    def plan(utilisation: float) -> MemoryPlan:
        seqs, tokens = settings.max_num_seqs, settings.max_batched_tokens
        planned = plan_memory(sharded, memory, utilisation, tokens, seqs, BLOCK_TOKENS)
        return replace(planned, sequence_tokens=longest)

    if settings.of_free:  # TensorRT-LLM: free_gpu_memory_fraction of what is left
        whole = plan(1.0)
        budget = int(settings.kv_fraction * whole.kv_budget_bytes)
    elif settings.engine.kernels == "sglang":  # mem_fraction_static: weights and cache
        whole = plan(1.0)
        budget = int(settings.kv_fraction * memory) - whole.weight_bytes - whole.state_bytes
    else:
        whole = plan(settings.kv_fraction)
        budget = whole.kv_budget_bytes
    blocks = budget // whole.kv_bytes_per_block
    if blocks < 1:
        raise UserError("the weights leave no room for a KV cache")
    return blocks


def table_bounds(placed: list[Placed]) -> TableBounds:
    """That cover all of them."""
    limits = [each.limits for each in placed]
    return TableBounds(
        max(each.max_batched_tokens for each in limits),
        max(each.max_num_seqs for each in limits),
        placed[0].sharded.context_tokens,
        max(each.kv_blocks for each in limits) * BLOCK_TOKENS,
    )


def _means_s(records: Records) -> tuple[float, float]:
    """Mean TTFT, and mean TPOT, of the requests that finished."""
    done = records.finished & (records.output_tokens > 1)
    if not done.any():
        raise UserError("no request fits the KV cache")
    first_s = records.first_token_s[done]
    tpot_s = (records.finish_s[done] - first_s) / (records.output_tokens[done] - 1)
    return float((first_s - records.arrival_s[done]).mean()), float(tpot_s.mean())


def run(
    cases: Iterable[Case], store: Path, told: Callable[[Answer], None] = lambda answer: None
) -> tuple[list[Answer], list[dict[str, str]]]:
    """Answers, each told as it comes, and refusals with their reason."""
    predictor = Predictor(store)
    answers, refused = [], []
    groups: dict[str, list[tuple[Case, Placed]]] = defaultdict(list)
    for case in cases:
        try:
            placed = place(case)
            groups[placed.tables_key].append((case, placed))
        except UserError as error:
            refused.append({"id": case.id, "model": case.model, "reason": str(error)})
    for pairs in groups.values():
        bounds = table_bounds([placed for _, placed in pairs])
        for case, placed in pairs:
            try:
                answers.append(predictor.answer(case, placed, bounds))
                told(answers[-1])
            except UserError as error:
                refused.append({"id": case.id, "model": case.model, "reason": str(error)})
    return answers, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dense", action="store_true", help="dense models only")
    parser.add_argument("--system", action="append", help="h100_sxm, …; all by default")
    parser.add_argument("--backend", action="append", help="vllm, …; all by default")
    parser.add_argument("--model", action="append", help="part of a model's name; all by default")
    parser.add_argument("--every", type=int, default=1, help="only each n-th of those rows")
    parser.add_argument("--rows", type=Path, help="write every answer as CSV")
    parser.add_argument("--resume", action="store_true", help="answer only what --rows lacks")
    asked = parser.parse_args()
    cases = [
        case
        for case in read_cases(asked.folder)
        if (not asked.dense or case.is_dense)
        and (not asked.system or case.system in asked.system)
        and (not asked.backend or case.backend in asked.backend)
        and (not asked.model or any(name in case.model for name in asked.model))
    ][:: asked.every]
    before = read_answers(cases, asked.rows) if asked.resume and asked.rows.exists() else []
    known = {answer.case.id for answer in before}
    with RowsFile(asked.rows) as rows:
        for answer in before:
            rows.write(answer)
        found, refused = run([c for c in cases if c.id not in known], asked.store, rows.write)
    print(json.dumps(report(cases, before + found, refused), indent=1))


if __name__ == "__main__":
    main()
