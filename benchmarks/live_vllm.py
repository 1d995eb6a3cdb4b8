"""A real vLLM on this machine's processor against predictions made before it ran.

    SERVECAST_VLLM_PYTHON=vllm/bin/python python benchmarks/live_vllm.py [--quick] [--clock wall] [--out F]

1. An agent of that Python (one OpenMP thread) profiles two models of random weights: the one to predict,
   and one of as many layers that computes less, five times over. Fixed work, matrix products, is timed
   between the slices.
2. vLLM runs the second, in closed loops of 1 to 16 clients, six rounds: what its steps take beside their
   kernels in every other round gives `host_step_s` and `host_per_sequence_s`; the others check them.
3. The simulator predicts Poisson arrivals at three loads and closed loops of two sizes, and writes it down.
   Of a seed's traces the first counts that can judge a prediction: none of its statistics goes farther than
   the limit where every step takes 2.5 % more or less, as the predictions themselves tell.
4. vLLM runs all of them, then all again, and again. A statistic counts by its median over the repeats; how
   far the repeats lie from it is the floor that no prediction can be better than.

The clock is the engine thread's processor time, in which waiting takes none of its own, and of which other
programs take none; ``--clock wall`` is the monotonic one. Either counts seconds of the machine as it was
profiled: it goes slower by as much as the fixed work takes longer, which is timed between the engine's steps
four times a second. Predictions know nothing of that.

Step times are compared batch by batch as vLLM formed them, latencies over the requests of a run. The run is
rejected (exit code 3) where the machine was too restless to judge: more than BUSY programs wanted it, fixed
work took SLOWER more in one run or slice than in another, no second repeat of a run is within REPEAT of its
median, or, by the wall clock, others had the processor for more than STOLEN of a run's time. A statistic
whose repeats lie farther from their median than a prediction may, or that no trace of the seed steadied, is
not decided, neither way: exit code 3 where nothing decided is above its limit. Exit code 1: something is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from live_machine import (
    HOST_PROBE,
    LIVE,
    MAX_NUM_SEQS,
    STORE,
    Clock,
    Run,
    agent,
    profile,
    reference_work,
    replay,
)
from live_prediction import (
    PROBE_CLIENTS,
    Predictor,
    Watched,
    closed,
    host_profile,
    measured_run,
    probe_rounds,
    steady,
)
from live_verdict import GATED, not_decided, rejections, table, too_far

from servecast.estimator.engine_profile import ENGINE_PROFILES, EngineProfile
from servecast.simulator.measured.validate import compare

LOADS = (0.3, 0.5, 0.7)  # of the predicted capacity
CONCURRENCIES = (2, 8)
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """``rounds`` are the profile's."""

    opened: int  # requests of an open loop
    closed: int
    loads: tuple[float, ...]
    concurrencies: tuple[int, ...]
    rounds: int


FULL = Size(120, 60, LOADS, CONCURRENCIES, 5)
QUICK = Size(30, 30, LOADS[1:2], CONCURRENCIES[1:], 1)


def errors_of(run: Run, predictor: Predictor, repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one run: step times batch by batch over all repeats, latencies by statistic at their median."""
    steps = [[step for step in told["steps"] if step["tokens"]] for told in repeats]
    relative = np.concatenate([_step_errors(run, predictor, some) for some in steps])
    predicted = predictor.run(run)
    tables = [compare(measured_run(run, told), predicted) for told in repeats]
    latencies, floor = {}, {}
    for rows in zip(*tables, strict=True):
        name = f"{rows[0].metric} {rows[0].statistic}"
        each_s = [row.measured_s for row in rows]
        middle = sorted(rows, key=lambda row: row.measured_s)[len(rows) // 2]
        latencies[name] = asdict(middle) | {"each_s": each_s}
        floor[name] = sorted(abs(s / middle.measured_s - 1) for s in each_s)[1:]
    return {
        "steps": len(relative),
        "step_mape": float(np.abs(relative).mean()),
        "step_bias": float(relative.mean()),
        "latencies": latencies,
        "floor": {" ".join(pair): floor[" ".join(pair)] for pair in GATED},
    }


def _step_errors(run: Run, predictor: Predictor, steps: list[dict[str, Any]]) -> np.ndarray:
    took_s = np.array([step["end_s"] - step["begin_s"] for step in steps])
    return np.asarray(np.array(predictor.steps_s(run, steps)) / took_s - 1)


def runs_of(size: Size, predictor: Predictor, seed: int) -> list[Run]:
    """Loads are shares of what the prediction says that the engine can serve: no run is looked at."""
    full = closed("capacity", MAX_NUM_SEQS, 4 * MAX_NUM_SEQS)
    capacity_per_s = len(full.requests) / float(predictor.run(full).finish_s.max())
    return [
        *(
            steady(predictor, f"open {load:.0%}", load * capacity_per_s, size.opened, seed)
            for load in size.loads
        ),
        *(closed(f"closed {n}", n, size.closed, seed) for n in size.concurrencies),
    ]


def live(python: str, size: Size, clock: str, seed: int, folder: Path) -> dict[str, Any]:
    """The whole comparison as JSON."""
    with agent(python, folder) as address, reference_work(python) as gauge:
        by_round_s = profile(address, folder, size.rounds, gauge)
    busy = os.getloadavg()[0]
    told_by = Clock(clock, median(chain.from_iterable(by_round_s)))
    engine, probed = probe_host(python, folder, told_by)
    predictor = Predictor(folder / "live.llm", LIVE.name, folder / STORE, engine)
    runs = runs_of(size, predictor, seed)
    moves = {run.name: predictor.moves(run) for run in runs}
    predicted_at_s = write_predictions(folder, runs, predictor, moves)
    asked = [closed("warm", 4, 8), *runs * REPEATS]
    measured_at_s = time.time()
    _, *told = replay(python, LIVE, asked, told_by)
    (folder / "measured.json").write_text(json.dumps({"probe": probed["told"], "runs": told}))
    slowness = [median(one["slowness"]) for one in (*probed["told"], *told)]
    slowness += [median(some_s) / told_by.reference_s for some_s in by_round_s]
    results = [
        result_of(run, predictor, told[number :: len(runs)], clock) | {"moves": moves[run.name]}
        for number, run in enumerate(runs)
    ]
    found = {
        "clock": asdict(told_by),
        "seed": seed,
        "predicted_at_s": predicted_at_s,
        "measured_at_s": measured_at_s,
        "slower": max(slowness) / min(slowness) - 1,
        "busy": max(busy, os.getloadavg()[0]),
        "runs": results,
        "host_step_s": engine.host_step_s,
        "host_per_sequence_s": engine.host_per_sequence_s,
        "probe_mape": probed["mape"],
    }
    verdicts = {"too_far": too_far(results), "not_decided": not_decided(results)}
    return found | {"rejected": rejections(found)} | verdicts


def probe_host(python: str, folder: Path, told_by: Clock) -> tuple[EngineProfile, dict[str, Any]]:
    """The host terms, what the engine told of the second model, and how far its steps are from both halves
    of the rounds: those the terms are fitted to, and the others.
    """
    path, store, rounds = folder / "live.llm", folder / STORE, probe_rounds()
    runs = [run for each in rounds for run in each]
    _, *told = replay(python, HOST_PROBE, [closed("warm", 8, 16), *runs], told_by)
    watched = list(zip(runs, told, strict=True))
    size = len(PROBE_CLIENTS)
    by_round = [watched[at : at + size] for at in range(0, len(watched), size)]
    bare = Predictor(path, HOST_PROBE.name, store, ENGINE_PROFILES["none"])
    engine = host_profile(bare, by_round[::2])
    predictor = Predictor(path, HOST_PROBE.name, store, engine)
    halves = {"fitted": by_round[::2], "held out": by_round[1::2]}
    mape = {name: step_mape(predictor, half) for name, half in halves.items()}
    return engine, {"told": told, "mape": mape}


def step_mape(predictor: Predictor, rounds: list[list[Watched]]) -> float:
    errors = [
        _step_errors(run, predictor, [step for step in told["steps"] if step["tokens"]])
        for watched in rounds
        for run, told in watched
    ]
    return float(np.abs(np.concatenate(errors)).mean())


def result_of(
    run: Run, predictor: Predictor, repeats: list[dict[str, Any]], clock: str
) -> dict[str, Any]:
    """Its errors, how slow the machine was by fixed work, and what others took of it."""
    machine = {
        "slowness": [median(one["slowness"]) for one in repeats],
        "stolen": max(one["stolen"] for one in repeats) if clock == "wall" else 0.0,
    }
    return {"name": run.name, **machine, **errors_of(run, predictor, repeats)}


def write_predictions(
    folder: Path, runs: list[Run], predictor: Predictor, moves: dict[str, dict[str, float]]
) -> float:
    """Before the engine runs; gives the moment."""
    at_s = time.time()
    rows = {
        run.name: {
            "finish_s": predictor.run(run).finish_s.tolist(),
            "moves": moves[run.name],
            **asdict(run),
        }
        for run in runs
    }
    (folder / "predicted.json").write_text(json.dumps({"at_s": at_s, "runs": rows}))
    return at_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one load and one closed loop, few requests"
    )
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--requests", type=int, help="of each open loop; 120, with --quick 30")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    parser.add_argument("--out", type=Path, help="keep the profile, predictions and result here")
    asked = parser.parse_args()
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        parser.error("SERVECAST_VLLM_PYTHON names no Python with vLLM")
    size = QUICK if asked.quick else FULL
    size = replace(size, opened=asked.requests or size.opened)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = live(python, size, asked.clock, asked.seed, folder)
        (folder / "live.json").write_text(json.dumps(found, indent=1))
    print(table(found))
    if found["rejected"]:
        return 3
    return 1 if found["too_far"] else 3 * bool(found["not_decided"])


if __name__ == "__main__":
    sys.exit(main())
