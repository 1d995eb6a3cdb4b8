"""Fit what the host takes a sequence where asynchronous scheduling hides it, to two recordings' means.

    python benchmarks/fit_hidden_host.py ../shared/data --store hosts.duckdb

The recordings are LLMServingSim's of a dense model, vLLM 0.19 on two GPUs; the third, of ranks with experts,
is left for a test. An error of a mean counts in units of what it may be (TTFT 6 %, TPOT 2 %, E2E 2.5 %), and
the sum of their squares is least at what `engine_profile.HIDDEN_HOST` holds. Percentiles are not looked at.
Time between steps, ``host_step_s``, is never waited for in these recordings: their steps are longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scoreboard import RECORDINGS, prepared, recording_of

from servecast.simulator.commands.validate_job import ValidateOptions, engine_of, replay
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.validate import compare

TRIED_S = tuple(0.5e-6 * i for i in range(13))
MAY_BE = {"ttft": 0.06, "tpot": 0.02, "e2e": 0.025}


def errors(asked: ValidateOptions, host_per_sequence_s: float) -> dict[str, float]:
    run = read_run(asked.run)
    engine = engine_of(asked, run).given("tried", host_per_sequence_s=host_per_sequence_s)
    found = compare(run, replay(asked, run, engine).records, asked.seed)
    return {each.metric: each.error for each in found if each.statistic == "mean"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    prepared(options.data, options.store)
    losses: dict[float, float] = {}
    print("| us a sequence | TTFT, TPOT, E2E | the same of the second | sum of squares |")
    print("| ---: | --- | --- | ---: |")
    for tried_s in TRIED_S:
        told, losses[tried_s] = [], 0.0
        for recording in RECORDINGS[:2]:
            off = errors(recording_of(options.data, options.store, recording), tried_s)
            told.append(", ".join(f"{off[metric]:+.1%}" for metric in MAY_BE))
            losses[tried_s] += sum((off[metric] / most) ** 2 for metric, most in MAY_BE.items())
        print(f"| {1e6 * tried_s:.1f} | {' | '.join(told)} | {losses[tried_s]:.3f} |")
    print(f"\nhost_per_sequence_s={min(losses, key=lambda each: losses[each]):g}")


if __name__ == "__main__":
    main()
