"""Who shared a rank in LLMServingSim's recording of two, by the engine's own clocks, beside the simulated
balancer: prints a table.

    python benchmarks/recorded_ranks.py ../shared/data --store ranks.duckdb

All tokens of a rank's step bear one clock, and so do all requests that one of its passes schedules. Two ranks
in lock step end their steps together, but for some 0.1 ms. So two requests with one clock shared a rank, and
two with clocks less than half a millisecond apart did not: the recording tells it of some two hundred pairs,
without any latency. The table has, for several ``message_s`` of the router `vllm_ranks`, how many of these
pairs the simulation sends otherwise, by which its default was chosen, and beside them the errors of TTFT.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from recorded_steps import Request, requests_of
from scoreboard import RECORDINGS, prepared, recording_of

from servecast.simulator.commands.validate_job import engine_of, replay
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.validate import compare

TOGETHER_S = 5e-4  # two clocks of one step, of two ranks
TRIED_S = (0, 2e-3, 4e-3, 6e-3, 7e-3, 8e-3, 9e-3, 10e-3, 11e-3, 12e-3, 14e-3, 16e-3, 20e-3)
TOLD = ("mean", "p50", "p90", "p99")

Pair = tuple[int, int, bool]  # two requests, and whether they shared a rank


def pairs(requests: list[Request]) -> Iterator[Pair]:
    tokens = [(t, n) for n, each in enumerate(requests) for t in (each.first_s, each.last_s)]
    passes = [(each.scheduled_s, n) for n, each in enumerate(requests)]
    for clocks in (tokens, passes):
        for (begin_s, one), (end_s, other) in pairwise(sorted(clocks)):
            if one != other and end_s - begin_s < TOGETHER_S:
                yield one, other, end_s == begin_s


def contradicted(found: list[Pair], count: int) -> int:
    """Pairs that others refute, where each request is on one of two ranks."""
    rank = {n: (n, 0) for n in range(count)}  # a group's name, and which of its two sides
    refuted = 0
    for one, other, shared in found:
        (kept, side), (joined, turned) = rank[one], rank[other]
        flip = side ^ turned ^ (not shared)
        if kept == joined:
            refuted += flip
            continue
        for n, (name, at) in rank.items():
            if name == joined:
                rank[n] = (kept, at ^ flip)
    return refuted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    prepared(options.data, options.store)
    requests = requests_of(recording_of(options.data, options.store, RECORDINGS[2]).run)
    found = list(pairs(requests))
    refuted = contradicted(found, len(requests))
    print(f"{len(found)} pairs of {len(requests)} requests; {refuted} of them contradict others\n")
    print(f"| message ms | sent otherwise | {' | '.join(f'TTFT {each}' for each in TOLD)} |")
    print(f"| ---: | ---: |{' ---: |' * len(TOLD)}")
    for message_s in TRIED_S:
        router = f"vllm_ranks:message_s={message_s}"
        asked = recording_of(options.data, options.store, RECORDINGS[2], router=router)
        run = read_run(asked.run)
        records = replay(asked, run, engine_of(asked, run)).records
        ranks = records.replica.tolist()
        otherwise = sum((ranks[one] == ranks[other]) != shared for one, other, shared in found)
        ttft = {r.statistic: r.error for r in compare(run, records) if r.metric == "ttft"}
        errors = " | ".join(f"{ttft[each]:+.1%}" for each in TOLD)
        print(f"| {1e3 * message_s:g} | {otherwise} | {errors} |")


if __name__ == "__main__":
    main()
