"""Replays workloads on a real vLLM in this process, and tells every step and every token.

Runs under a Python that has vLLM. Reads one JSON object from standard input: ``model`` (a config.json),
``engine`` (keywords of vllm.LLM) and ``runs``, each with ``name``, ``requests`` ([arrival in seconds, prompt
tokens, output tokens]) and, for a closed loop, ``concurrency``. Writes one JSON object per run to standard
output. Weights and prompts are random; every request ignores the end of text, so that lengths are as asked.

The engine runs in this thread, with one OpenMP thread. With ``clock`` "cpu" time is this thread's processor
time, and waiting for an arrival takes none: programs beside it cannot lengthen a step by having the
processor. With "wall" it is the monotonic clock. Either is divided by how much longer than ``reference_s``
fixed work takes now; it is timed between steps, GAUGE_S apart, and counts for nothing.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from live_clock import CLOCKS, Clock
from reference_work import ReferenceWork
from vllm_in_process import RESERVED, SamplingParams, synchronous_engine


def main() -> None:
    order = json.load(sys.stdin)
    engine = synchronous_engine(order["model"], **order["engine"])
    core = engine.engine_core.engine_core
    told = {
        "num_gpu_blocks": core.scheduler.cache_config.num_gpu_blocks,
        "block_size": core.scheduler.block_size,
    }
    batches, work = watch(core.scheduler), ReferenceWork()
    for run in order["runs"]:
        clock = Clock(*CLOCKS[order["clock"]], work, order["reference_s"])
        replay = Replay(engine, run, order["model"]["vocab_size"], batches)
        done = replay.to_the_end(clock)
        print(
            json.dumps({"name": run["name"], "slowness": clock.slowness, **told, **done}),
            flush=True,
        )


def watch(scheduler: Any) -> list[dict[str, int]]:
    """Tokens by request of the batches that the scheduler decides from now on; the caller empties it."""
    decided: list[dict[str, int]] = []
    schedule = scheduler.schedule

    def watched(*args: Any, **keywords: Any) -> Any:
        output = schedule(*args, **keywords)
        decided.append(dict(output.num_scheduled_tokens))
        return output

    scheduler.schedule = watched
    return decided


class Replay:
    """One run: who was sent when, what came back when."""

    def __init__(
        self, engine: Any, run: dict[str, Any], vocab: int, batches: list[dict[str, int]]
    ) -> None:
        self._engine, self._vocab, self._batches = engine, vocab, batches
        self._requests = run["requests"]
        self._concurrency = run.get("concurrency")
        self._rng = random.Random(run["name"])
        count = len(self._requests)
        self.sent_s = [0.0] * count
        self.first_s = [0.0] * count
        self.finish_s = [0.0] * count
        self.steps: list[dict[str, Any]] = []
        self._next = self._running = 0

    def to_the_end(self, clock: Clock) -> dict[str, Any]:
        wall_s, cpu_s, waited_s = time.perf_counter(), time.thread_time(), 0.0
        while self._next < len(self._requests) or self._running:
            clock.gauge()
            self._send_due(clock)
            if self._running:
                self._step(clock)
                continue
            idle_s = time.perf_counter()
            clock.wait_until(self._requests[self._next][0])
            waited_s += time.perf_counter() - idle_s
        busy_s = time.perf_counter() - wall_s - waited_s
        return {
            "sent_s": self.sent_s,
            "first_s": self.first_s,
            "finish_s": self.finish_s,
            "steps": self.steps,
            "stolen": 1 - (time.thread_time() - cpu_s) / busy_s,
        }

    def _send_due(self, clock: Clock) -> None:
        while self._next < len(self._requests) and self._is_due(clock()):
            arrival_s, prompt, output = self._requests[self._next]
            ids = [self._rng.randrange(RESERVED, self._vocab) for _ in range(prompt)]
            sampling = SamplingParams(
                temperature=0.0,
                max_tokens=output,
                min_tokens=output,
                ignore_eos=True,
                detokenize=False,
            )
            self.sent_s[self._next] = arrival_s if self._concurrency is None else clock()
            self._engine.add_request(str(self._next), {"prompt_token_ids": ids}, sampling)
            self._next += 1
            self._running += 1

    def _is_due(self, now_s: float) -> bool:
        if self._concurrency is None:
            return bool(self._requests[self._next][0] <= now_s)
        return self._running < self._concurrency

    def _step(self, clock: Clock) -> None:
        self._batches.clear()
        begin_s = clock()
        outputs = self._engine.step()
        end_s = clock()
        batch = {name.partition("-")[0]: n for some in self._batches for name, n in some.items()}
        self.steps.append({"begin_s": begin_s, "end_s": end_s, "tokens": batch})
        for output in outputs:
            number = int(output.request_id)
            self.first_s[number] = self.first_s[number] or end_s
            if output.finished:
                self.finish_s[number] = end_s
                self._running -= 1


if __name__ == "__main__":
    main()
