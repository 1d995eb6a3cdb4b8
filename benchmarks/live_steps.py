"""Where a live comparison's steps are off, of the model to predict and of the probe: by what a step holds.

    python benchmarks/live_steps.py live

reads the folder that `benchmarks/live_vllm.py --out live` has filled. A step either decodes so many sequences
and nothing else, or holds a chunk of a prompt; these are told by their tokens, from a multiple of 64 on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from live_machine import HOST_PROBE, LIVE, STORE, Run
from live_prediction import Predictor, probe_rounds

from servecast.estimator.engine_profile import ENGINE_PROFILES

CHUNK = 64


def kind(step: dict[str, Any]) -> tuple[str, int]:
    tokens = step["tokens"].values()
    if max(tokens) == 1:
        return "decodes", len(tokens)
    return "tokens", sum(tokens) // CHUNK * CHUNK


def steps_of(folder: Path, model: str) -> Iterator[tuple[tuple[str, int], float, float]]:
    """Each step's kind, and the seconds that it took and was predicted to take."""
    found, predicted, measured = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("live", "predicted", "measured")
    )
    host = {name: found[name] for name in ("host_step_s", "host_per_sequence_s")}
    engine = ENGINE_PROFILES["none"].given("measured here, on the host probe", **host)
    predictor = Predictor(folder / "live.llm", model, folder / STORE, engine)
    asked = {
        name: Run(name, tuple(map(tuple, run["requests"])), run["concurrency"])
        for name, run in predicted["runs"].items()
    }
    asked |= {run.name: run for each in probe_rounds() for run in each}
    for told in measured["runs" if model == LIVE.name else "probe"]:
        steps = [step for step in told["steps"] if step["tokens"]]
        predicted_s = predictor.steps_s(asked[told["name"]], steps)
        for step, seconds in zip(steps, predicted_s, strict=True):
            yield kind(step), step["end_s"] - step["begin_s"], seconds


def main() -> None:
    for model in (LIVE.name, HOST_PROBE.name):
        by_kind: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for sort, took_s, predicted_s in steps_of(Path(sys.argv[1]), model):
            by_kind.setdefault(sort, []).append((took_s, predicted_s))
        print(f"{model:<14}{'steps':>7}{'measured':>11}{'predicted':>11}{'error':>8}")
        for (what, size), times in sorted(by_kind.items()):
            took, predicted = np.mean(times, axis=0) * 1e3
            told = f"{took:>8.2f} ms{predicted:>8.2f} ms{predicted / took - 1:>8.1%}"
            print(f"{f'{size} {what}':<14}{len(times):>7}{told}")


if __name__ == "__main__":
    main()
