"""Steps of LLMServingSim's recordings, by the engine's own clocks, beside what tables say: prints a table.

    python benchmarks/recorded_steps.py ../shared/data --store steps.duckdb [--each]

A request that has the only prompt under way is scheduled as a step ends; the next step, prepared before, has
decodes alone, and the one after it the whole prompt, whose end is the first token. So the recording tells
what these two steps took together, of known sizes, without queues: nothing of it was simulated. Where no step
was prepared the prompt ran at once, and where another request's prompt was computed again a step came
between: both are seen by their clocks, which are then off by a step, and are counted as left out. ``--each``
prints every pair, by the tokens of its step with the prompt.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scoreboard import RECORDINGS, REPOSITORY, prepared

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.commands.validate_job import ValidateOptions, engine_of, setup_of
from servecast.simulator.measured.readers import read_run
from servecast.simulator.reference.stage_times import Work, common_end_s, stage_s
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import Setup, place

TOGETHER_S = 1e-3  # two clocks that name one step's end
WARM_S = 1.0  # kernels are loaded when they first run
STEPS_OFF = 0.5  # of a step with decodes alone: further off than that it is another number of steps


@dataclass(frozen=True, slots=True)
class Request:
    scheduled_s: float
    first_s: float
    last_s: float
    prompt_tokens: int
    output_tokens: int

    def cached(self, at_s: float) -> int:
        """Tokens, as if they came evenly."""
        done = (at_s - self.first_s) / max(self.last_s - self.first_s, TOGETHER_S)
        return self.prompt_tokens + 1 + int(done * (self.output_tokens - 1))


@dataclass(frozen=True, slots=True)
class Pair:
    """The decodes' step and the one with the prompt."""

    tokens: int
    decodes: int
    measured_s: float
    predicted_s: float
    alone_s: float  # the step with decodes alone

    @property
    def is_one(self) -> bool:
        return abs(self.measured_s - self.predicted_s) < STEPS_OFF * self.alone_s


def requests_of(folder: Path) -> list[Request]:
    clocks = ("scheduled_s", "first_token_s", "last_token_s")
    with (folder / "requests.csv").open(encoding="utf-8") as file:
        return [
            Request(
                *(float(row[name]) for name in clocks),
                int(row["input_tokens"]),
                int(row["output_tokens"]),
            )
            for row in csv.DictReader(file)
        ]


def step_s(tables: RuntimeTables, ranks: int, decodes: list[int], prompt: int) -> float:
    """Of data-parallel ranks that share ``decodes``, by their cached tokens, evenly; one has the prompt."""
    ends = []
    for rank in range(ranks):
        mine, chunk = decodes[rank::ranks], prompt if rank == ranks - 1 else 0
        chunks = ((0, chunk),) if chunk else ()
        rows = len(mine) + len(chunks)
        work = Work(len(mine) + chunk, rows, chunks, len(mine), sum(mine))
        ends.append((stage_s(tables, 0, work), work.tokens))
    return tables.host_step_s + (ends[0][0] if ranks == 1 else common_end_s(tables, ends))


def pairs(
    requests: list[Request], tables: RuntimeTables, ranks: int, budget: int
) -> Iterator[Pair]:
    for asked in requests:
        under_way = (
            each is not asked
            and each.scheduled_s < asked.first_s - TOGETHER_S
            and each.first_s > asked.scheduled_s + TOGETHER_S
            for each in requests
        )
        begin_s = asked.scheduled_s
        running = [r for r in requests if r.first_s <= begin_s < r.last_s - TOGETHER_S]
        fits = len(running) // ranks + asked.prompt_tokens < budget
        if begin_s < WARM_S or not fits or any(under_way):
            continue
        cached = [each.cached(begin_s) for each in running]
        alone_s = step_s(tables, ranks, cached, 0)
        predicted_s = alone_s + step_s(tables, ranks, cached, asked.prompt_tokens)
        tokens = len(running) // ranks + asked.prompt_tokens
        yield Pair(tokens, len(running), asked.first_s - begin_s, predicted_s, alone_s)


def tables_of(asked: ValidateOptions) -> tuple[Setup, RuntimeTables]:
    """As ``servecast validate`` has them."""
    spec, run = load_spec(asked.spec), read_run(asked.run)
    engine = engine_of(asked, run)
    setup = setup_of(asked, run, spec.model(asked.model), engine)
    assert asked.store is not None
    loader = TableLoader(asked.store, asked.sources, engine)
    loader.expect_lengths(run.workload.prompt_tokens, run.workload.output_tokens)
    skus = {**shipped_skus(), **spec.skus}
    placement = place(setup, skus, run.workload.mean_sequence_tokens)
    return setup, loader.tables(placement.sharded, placement.sku, bounds(placement))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--each", action="store_true")
    options = parser.parse_args()
    prepared(options.data, options.store)
    print("| recording | pairs of steps | left out | predicted, mean | median | within 5 % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, sku, spec, model in RECORDINGS:
        folder = options.data / "measured" / "llmservingsim-vllm-0.19" / name
        asked = ValidateOptions(
            REPOSITORY / "spec" / spec, folder, sku, {}, model=model,
            store=options.store, sources=("llmservingsim", "silicon"),
        )  # fmt: skip
        setup, tables = tables_of(asked)
        every = pairs(requests_of(folder), tables, setup.dp, setup.max_batched_tokens)
        asked_of = sorted(every, key=lambda each: each.tokens)
        found = [each for each in asked_of if each.is_one]
        off = [each.predicted_s / each.measured_s - 1 for each in found]
        near = statistics.mean(abs(error) <= 0.05 for error in off)
        told = f"{statistics.mean(off):+.1%} | {statistics.median(off):+.1%} | {near:.0%}"
        print(f"| {name} | {len(found)} | {len(asked_of) - len(found)} | {told} |")
        for each in found if options.each else ():
            times = f"{1e3 * each.measured_s:.1f} ms, predicted {1e3 * each.predicted_s:.1f}"
            print(f"  {each.tokens} tokens, {each.decodes} of them decodes: {times}")


if __name__ == "__main__":
    main()
