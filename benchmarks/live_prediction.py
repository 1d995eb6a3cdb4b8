"""The predictions of the live comparison: loads, the simulated engine, its step times, its host terms."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from live_machine import MAX_BATCHED_TOKENS, MAX_NUM_SEQS, SKU, Run
from live_verdict import GATED, LATENCY_LIMIT
from scipy.optimize import nnls
from scipy.stats import trim_mean

from servecast.compiler.load import load_spec
from servecast.estimator.engine_profile import ENGINE_PROFILES, EngineProfile
from servecast.estimator.load import TableLoader
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.measured.readers import MeasuredRun
from servecast.simulator.measured.validate import predicted_latencies
from servecast.simulator.metrics.metrics import Samples
from servecast.simulator.reference.stage_times import Work, whole_s
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import Setup, place
from servecast.simulator.traffic.workload import Workload

PROMPT_TOKENS, OUTPUT_TOKENS = (16, 400), (4, 40)
PROBE_CLIENTS, PROBE_ROUNDS = (1, 2, 3, 4, 6, 8, 12, 16), 6
MIN_PROBE, MIN_STEPS = 6, 5  # requests of a probe's loop, steps that a mean wants
MACHINE = 0.025  # fixed work differs by that between runs on a machine that does nothing else
MAX_TRACES = 60
OUTER = 0.1  # of steps, on either side: they stand for what else the machine did

Watched = tuple[Run, dict[str, Any]]  # with what the engine told of it


def lengths(rng: random.Random, count: int) -> list[tuple[int, int]]:
    return [(rng.randint(*PROMPT_TOKENS), rng.randint(*OUTPUT_TOKENS)) for _ in range(count)]


def closed(name: str, concurrency: int, count: int, seed: int = 0) -> Run:
    rng = random.Random(f"{name} {seed}")
    return Run(name, tuple((0.0, *pair) for pair in lengths(rng, count)), concurrency)


def opened(name: str, rate_per_s: float, count: int, seed: str = "0") -> Run:
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

    def moves(self, run: Run) -> dict[str, float]:
        """By statistic, how far it goes at most where every step takes a little more or less, of itself.

        A quantile beside a gap between two latencies jumps over it, and what queues grows with the load. A
        trace does so before any engine has run it.
        """
        told = _gated(self.run(run))
        found = dict.fromkeys(told, 0.0)
        for factor in (1 + share * MACHINE for share in (-1, -0.5, 0.5, 1)):
            # Longer steps are denser arrivals, by a clock that goes slower.
            denser = tuple((at_s / factor, *sizes) for at_s, *sizes in run.requests)
            moved = _gated(self.run(replace(run, requests=denser)))
            for name, told_s in told.items():
                found[name] = max(found[name], abs(factor * moved[name] / told_s - 1))
        return found

    def steps_s(self, run: Run, steps: list[dict[str, Any]]) -> list[float]:
        host_s = self.fleet.tables.host_step_s
        return [host_s + kernels_s for kernels_s in batches_s(self.fleet, run, steps)]


def _gated(records: Records) -> dict[str, float]:
    latencies = predicted_latencies(records)
    return {
        f"{metric} {statistic}": Samples(latencies[metric]).percentile(float(statistic[1:]))
        for metric, statistic in GATED
    }


def steady(predictor: Predictor, name: str, rate_per_s: float, count: int, seed: int) -> Run:
    """The seed's first trace of which no statistic moves beyond the limit; of none, that moves least."""
    least, least_by = None, inf
    for number in range(MAX_TRACES):
        run = opened(name, rate_per_s, count, f"{seed}.{number}")
        by = max(predictor.moves(run).values())
        if by < least_by:
            least, least_by = run, by
        if by <= LATENCY_LIMIT:
            break
    assert least is not None
    return least


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


def probe_rounds() -> list[list[Run]]:
    """Closed loops of one client to many, so that steps of few sequences are told as surely as of many."""
    return [
        [closed(f"{n} clients, round {number}", n, max(MIN_PROBE, 2 * n)) for n in PROBE_CLIENTS]
        for number in range(PROBE_ROUNDS)
    ]


def host_profile(bare: Predictor, rounds: Sequence[Sequence[Watched]]) -> EngineProfile:
    """Host terms from what the probe's steps take beside their kernels: a line in the sequences.

    Steps that only decode count. Each number of sequences weighs alike, by what it is off by of a step; of
    each the median over the rounds, so that a restless moment of the machine has no say.
    """
    told = [_beside_s(bare, watched) for watched in rounds]
    counts = np.array(sorted(set.intersection(*map(set, told))))
    beside_s, took_s = np.median([[some[n] for n in counts] for some in told], axis=0).T
    line = np.stack([np.ones(len(counts)), counts], axis=1) / took_s[:, None]
    (step_s, sequence_s), _ = nnls(line, beside_s / took_s)  # neither takes time away
    return ENGINE_PROFILES["none"].given(
        "measured here, on the host probe",
        host_step_s=float(step_s),
        host_per_sequence_s=float(sequence_s),
    )


def _beside_s(bare: Predictor, watched: Sequence[Watched]) -> dict[int, tuple[float, float]]:
    """By number of sequences, where there are enough steps: the means of what decodes take beside their
    kernels and in all, both without their outer tenths.
    """
    by_count: dict[int, list[tuple[float, float]]] = {}
    for run, told in watched:
        steps = [step for step in told["steps"] if step["tokens"]]
        for step, kernels_s in zip(steps, bare.steps_s(run, steps), strict=True):
            took_s, tokens = step["end_s"] - step["begin_s"], step["tokens"].values()
            if max(tokens) == 1:
                by_count.setdefault(len(tokens), []).append((took_s - kernels_s, took_s))
    enough = {n: times for n, times in by_count.items() if len(times) >= MIN_STEPS}
    return {n: tuple(trim_mean(times, OUTER, axis=0)) for n, times in enough.items()}


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
