"""The predictions of the live comparison: loads, the simulated engine, its step times, its host terms."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from live_machine import MAX_BATCHED_TOKENS, MAX_NUM_SEQS, SKU, Run

from servecast.compiler.load import load_spec
from servecast.estimator.engine_profile import ENGINE_PROFILES, EngineProfile
from servecast.estimator.load import TableLoader
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.measured.readers import MeasuredRun
from servecast.simulator.reference.stage_times import Work, whole_s
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import Setup, place
from servecast.simulator.traffic.workload import Workload

PROMPT_TOKENS, OUTPUT_TOKENS = (16, 400), (4, 40)


def lengths(rng: random.Random, count: int) -> list[tuple[int, int]]:
    return [(rng.randint(*PROMPT_TOKENS), rng.randint(*OUTPUT_TOKENS)) for _ in range(count)]


def closed(name: str, concurrency: int, count: int, seed: int = 0) -> Run:
    rng = random.Random(f"{name} {seed}")
    return Run(name, tuple((0.0, *pair) for pair in lengths(rng, count)), concurrency)


def opened(name: str, rate_per_s: float, count: int, seed: int = 0) -> Run:
    rng, at_s, requests = random.Random(f"{name} {seed}"), 0.0, []
    for pair in lengths(rng, count):
        at_s += rng.expovariate(rate_per_s)
        requests.append((at_s, *pair))
    return Run(name, tuple(requests))


class Predictor:
    """Predictions from a store, for one model and the engine's host terms."""

    def __init__(self, spec_path: Path, model: str, store: Path, engine: EngineProfile) -> None:
        spec = load_spec(spec_path)
        limits = {"max_num_seqs": MAX_NUM_SEQS, "max_batched_tokens": MAX_BATCHED_TOKENS}
        placement = place(Setup(spec.model(model), SKU, **limits), spec.skus)
        loader = TableLoader(store, ("agent",), engine)
        tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
        self.fleet = Fleet(tables, placement.candidates[0].limits)

    def run(self, run: Run) -> Records:
        workload = workload_of(run)
        return Engine().run(workload, self.fleet, concurrency=run.concurrency).copy()

    def steps_s(self, run: Run, steps: list[dict[str, Any]]) -> list[float]:
        host_s = self.fleet.tables.host_step_s
        return [host_s + kernels_s for kernels_s in batches_s(self.fleet, run, steps)]


def batches_s(fleet: Fleet, run: Run, steps: list[dict[str, Any]]) -> Iterator[float]:
    """Of the batches that an engine formed, in its order, without the host between them."""
    computed = [0] * len(run.requests)
    for step in steps:
        chunks: list[tuple[int, int]] = []
        cached: list[int] = []
        for name, tokens in step["tokens"].items():
            number = int(name)
            if computed[number] < run.requests[number][1]:
                chunks.append((computed[number], tokens))
            else:
                cached.append(computed[number])
            computed[number] += tokens
        total, sequences = sum(step["tokens"].values()), len(step["tokens"])
        yield whole_s(fleet.tables, Work(total, sequences, tuple(chunks), len(cached), sum(cached)))


def workload_of(run: Run) -> Workload:
    arrival, prompt, output = zip(*run.requests, strict=True)
    lengths = (np.array(column, dtype=np.int64) for column in (prompt, output))
    return Workload(run.name, np.array(arrival), *lengths)


def host_profile(bare: Predictor, run: Run, measured: dict[str, Any]) -> EngineProfile:
    """Host terms from what the probe's steps take beside their kernels: a line in the sequences.

    Through the means of all steps, those that take in a new request included: queues feel the mean.
    """
    steps = [step for step in measured["steps"] if step["tokens"]]
    took_s = np.array([step["end_s"] - step["begin_s"] for step in steps])
    beside_s = took_s - np.array(bare.steps_s(run, steps))
    slope, at_0 = np.polyfit([len(step["tokens"]) for step in steps], beside_s, 1)
    if slope < 0:  # sequences take no time away: the same for all
        slope, at_0 = 0.0, beside_s.mean()
    return ENGINE_PROFILES["none"].given(
        "measured here, on the host probe",
        host_step_s=max(0.0, float(at_0)),
        host_per_sequence_s=max(0.0, float(slope)),
    )


def measured_run(run: Run, told: dict[str, Any]) -> MeasuredRun:
    sent_s, first_s, finish_s = (
        np.array(told[f"{name}_s"]) for name in ("sent", "first", "finish")
    )
    gaps = np.array([output - 1 for _, _, output in run.requests])
    latencies_s = {
        "ttft": first_s - sent_s,
        "tpot": (finish_s - first_s) / gaps,
        "e2e": finish_s - sent_s,
    }
    return MeasuredRun(workload_of(run), "server", latencies_s)
