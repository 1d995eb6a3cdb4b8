"""Steps of LLMServingSim's recordings, by the engine's own clocks, beside what tables say: prints two tables.

    python benchmarks/recorded_steps.py ../shared/data --store steps.duckdb [--each]

Every step ends at a clock of the requests in it. Where first and last tokens follow each other within three
steps, and no prompt is under way between them, it is clear how many steps of decodes alone passed: the first
table has such steps, by sequences a rank. The second has steps with a prompt. A request that has the only
prompt under way is scheduled as a step ends; the next step, prepared before, has decodes alone, and the one
after it the whole prompt, whose end is the first token. So the recording tells what these two steps took
together, of known sizes, without queues: nothing of it was simulated. Where no step was prepared the prompt
ran at once, and where another request's prompt was computed again a step came between: both are seen by
their clocks, which are then off by a step, and are counted as left out. ``--each`` prints every pair, by the
tokens of its step with the prompt.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from scoreboard import RECORDINGS, prepared, recording_of

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
MOST_STEPS, UNCLEAR = 3, 0.4  # between two clocks, and how far off a whole number of steps may be
SEQUENCES = (32, 64, 96, 128)  # bounds of the classes of the first table


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


@dataclass(frozen=True, slots=True)
class Between:
    """Two clocks of steps with decodes alone."""

    sequences: int  # of the rank that has most
    measured_s: float
    step_s: float  # as predicted, of one

    @property
    def steps(self) -> int:
        return round(self.measured_s / self.step_s)

    @property
    def is_clear(self) -> bool:
        off = abs(self.measured_s / self.step_s - self.steps)
        return 1 <= self.steps <= MOST_STEPS and off < UNCLEAR


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
    """Of data-parallel ranks that share ``decodes``, by their cached tokens, evenly; one has the prompt. The
    host's time between steps is hidden.
    """
    ends = []
    for rank in range(ranks):
        mine, chunk = decodes[rank::ranks], prompt if rank == ranks - 1 else 0
        chunks = ((0, chunk),) if chunk else ()
        rows = len(mine) + len(chunks)
        work = Work(len(mine) + chunk, rows, chunks, len(mine), sum(mine))
        ends.append((stage_s(tables, 0, work), work.tokens))
    return ends[0][0] if ranks == 1 else common_end_s(tables, ends)


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


def betweens(requests: list[Request], tables: RuntimeTables, ranks: int) -> Iterator[Between]:
    clocks = sorted({c for each in requests for c in (each.first_s, each.last_s) if c > WARM_S})
    for begin_s, end_s in pairwise(clocks):
        prompts = (
            each.scheduled_s < end_s - TOGETHER_S and each.first_s > begin_s + TOGETHER_S
            for each in requests
        )
        if end_s - begin_s < TOGETHER_S or any(prompts):
            continue
        at_s = (begin_s + end_s) / 2
        cached = [each.cached(at_s) for each in requests if each.first_s < at_s < each.last_s]
        if cached:
            predicted_s = step_s(tables, ranks, cached, 0)
            yield Between(-(-len(cached) // ranks), end_s - begin_s, predicted_s)


def print_decodes(name: str, found: list[Between]) -> None:
    clear = [each for each in found if each.is_clear]
    least = 1
    for most in SEQUENCES:
        here = [each for each in clear if least <= each.sequences <= most]
        steps = sum(each.steps for each in here)
        if steps:
            measured_s = sum(each.measured_s for each in here) / steps
            predicted_s = sum(each.step_s * each.steps for each in here) / steps
            told = f"{1e3 * measured_s:.2f} | {1e3 * predicted_s:.2f}"
            off = predicted_s / measured_s - 1
            print(f"| {name} | {least} to {most} | {steps} | {told} | {off:+.1%} |")
        least = most + 1


def print_pairs(name: str, asked_of: list[Pair], each_one: bool) -> None:
    found = [each for each in asked_of if each.is_one]
    off = [each.predicted_s / each.measured_s - 1 for each in found]
    near = statistics.mean(abs(error) <= 0.05 for error in off)
    told = f"{statistics.mean(off):+.1%} | {statistics.median(off):+.1%} | {near:.0%}"
    print(f"| {name} | {len(found)} | {len(asked_of) - len(found)} | {told} |")
    for each in found if each_one else ():
        times = f"{1e3 * each.measured_s:.1f} ms, predicted {1e3 * each.predicted_s:.1f}"
        print(f"  {each.tokens} tokens, {each.decodes} of them decodes: {times}")


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
    alone: dict[str, list[Between]] = {}
    with_prompt: dict[str, list[Pair]] = {}
    for recording in RECORDINGS:
        name, asked = recording[0], recording_of(options.data, options.store, recording)
        setup, tables = tables_of(asked)
        requests = requests_of(asked.run)
        alone[name] = list(betweens(requests, tables, setup.dp))
        every = pairs(requests, tables, setup.dp, setup.max_batched_tokens)
        with_prompt[name] = sorted(every, key=lambda each: each.tokens)
    print(
        "| recording | sequences a rank | steps of decodes | measured ms | predicted ms | error |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, found in alone.items():
        print_decodes(name, found)
    print("\n| recording | pairs of steps | left out | predicted, mean | median | within 5 % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, asked_of in with_prompt.items():
        print_pairs(name, asked_of, options.each)


if __name__ == "__main__":
    main()
