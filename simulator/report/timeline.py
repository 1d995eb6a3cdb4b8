"""A run as a Chrome trace, which ui.perfetto.dev opens: replicas, batches, requests, KV use and queue.

A replica is a process, each of its batch slots a thread, a step a slice. A request is an asynchronous track
(queued, prefill, decode) and a flow from the step of its first token to that of its last. KV use and
the queue are counters. A long run is cut to evenly spaced windows, and its counters are thinned; which
windows is told in the file's ``otherData``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.records import Floats, Records

MAX_STEPS = 40_000
"""Slices in a file of about 20 MB, which a browser opens without effort."""

MAX_REQUESTS = 5_000
MAX_COUNTS = 10_000
NUM_WINDOWS = 8

Event = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What of a run is drawn: step numbers, request numbers, and the windows of time they lie in."""

    steps: NDArray[np.int64]
    requests: NDArray[np.int64]
    windows_s: tuple[tuple[float, float], ...]


def write_timeline(records: Records, file: TextIO) -> None:
    """Stream the trace into ``file``; equal records give equal bytes."""
    shown = choose(records)
    write_events(events(records, shown), told(records, shown), file)


def told(records: Records, shown: Shown) -> Event:
    """Of the run, and how much of it is drawn."""
    return {
        "steps": len(records.steps),
        "steps_shown": len(shown.steps),
        "requests": len(records),
        "requests_shown": len(shown.requests),
        "windows_s": shown.windows_s,
    }


def write_events(found: Iterable[Event], other: Event, file: TextIO) -> None:
    """The file's frame around its events, one a line."""
    file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(other)}, "traceEvents": [')
    separator = "\n"
    for event in found:
        file.write(separator + json.dumps(event, separators=(",", ":"), allow_nan=False))
        separator = ",\n"
    file.write("\n]}\n")


def choose(records: Records, max_steps: int = MAX_STEPS, max_requests: int = MAX_REQUESTS) -> Shown:
    """All of a short run; of a long one, windows of consecutive steps at even distances."""
    num_steps = len(records.steps)
    if num_steps <= max_steps:
        steps = np.arange(num_steps)
    else:
        length = max_steps // NUM_WINDOWS
        starts = np.linspace(0, num_steps - length, NUM_WINDOWS).astype(np.int64)
        steps = np.unique((starts[:, None] + np.arange(length)).ravel())
    windows_s = _windows(records, steps)
    inside = np.zeros(len(records), dtype=np.bool_)
    for start_s, end_s in windows_s:
        inside |= (records.arrival_s >= start_s) & (records.arrival_s <= end_s)
    requests = np.flatnonzero(inside & records.finished)
    if len(requests) > max_requests:
        requests = requests[np.linspace(0, len(requests) - 1, max_requests).astype(np.int64)]
    return Shown(steps, requests, windows_s)


def _windows(records: Records, steps: NDArray[np.int64]) -> tuple[tuple[float, float], ...]:
    if len(steps) == 0:
        return ()
    if len(steps) == len(records.steps):  # from the first arrival, which no step precedes
        return ((float(records.arrival_s[0]), float(records.end_s.max())),)
    runs = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    return tuple(
        (float(records.start_s[run].min()), float(records.end_s[run].max())) for run in runs
    )


def events(records: Records, shown: Shown) -> Iterator[Event]:
    """The trace's events; the order is by kind, then as the run logged them."""
    return chain(
        _names(records),
        _slices(records, shown.steps),
        _counters(records),
        _request_tracks(records, shown.requests),
        _flows(records, shown),
    )


def _us(time_s: float) -> float:
    """Chrome traces count microseconds; a nanosecond is kept."""
    return round(float(time_s) * 1e6, 3)


def _names(records: Records) -> Iterator[Event]:
    for replica in range(records.replicas):
        yield _meta("process_name", replica, 0, f"replica {replica}")
        for slot in range(records.stages):
            yield _meta("thread_name", replica, slot, f"batch slot {slot}")


def _meta(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _slices(records: Records, steps: NDArray[np.int64]) -> Iterator[Event]:
    for step in records.steps[steps]:
        replica, slot = divmod(int(step["lane"]), records.stages)
        prefill = int(step["tokens"]) - int(step["decodes"])
        kinds = [
            name for name, count in (("prefill", prefill), ("decode", step["decodes"])) if count
        ]
        yield {
            "ph": "X",
            "name": " + ".join(kinds),
            "cat": "step",
            "pid": replica,
            "tid": slot,
            "ts": _us(step["start_s"]),
            "dur": _us(step["end_s"] - step["start_s"]),
            "args": {
                "prefill_tokens": prefill,
                "decodes": int(step["decodes"]),
                "sequences": int(step["sequences"]),
                "cached_tokens": int(step["cached"]),
                "kv_blocks": int(step["used_blocks"]),
            },
        }


def _counters(records: Records) -> Iterator[Event]:
    """KV use and requests waiting, at step starts, ``MAX_COUNTS`` of all replicas together."""
    every = len(records.steps) // MAX_COUNTS + 1
    for replica in range(records.replicas):
        steps = records.steps[records.lane // records.stages == replica]
        steps = steps[::every]
        mine = (records.replica == replica) & ~records.rejected
        arrived_s = np.sort(records.arrival_s[mine])
        scheduled_s = np.sort(records.scheduled_s[mine & ~np.isnan(records.scheduled_s)])
        waiting = _count_until(arrived_s, steps["start_s"]) - _count_until(
            scheduled_s, steps["start_s"]
        )
        for step, queue in zip(steps, waiting.tolist(), strict=True):
            use = float(step["used_blocks"]) / records.kv_blocks
            yield _counter("KV use", "share", replica, step["start_s"], round(use, 6))
            yield _counter("waiting", "requests", replica, step["start_s"], queue)


def _count_until(times_s: Floats, at_s: Floats) -> NDArray[np.intp]:
    return np.searchsorted(times_s, at_s, side="right")


def _counter(name: str, unit: str, replica: int, at_s: float, value: float) -> Event:
    return {"ph": "C", "name": name, "pid": replica, "ts": _us(at_s), "args": {unit: value}}


def _request_tracks(records: Records, requests: NDArray[np.int64]) -> Iterator[Event]:
    """Begin and end of a request and of its three phases, nested by their common id."""
    for i in requests.tolist():
        row = records.requests[i]
        times_s = [row[f"{name}_s"] for name in ("arrival", "scheduled", "first_token", "finish")]
        args = {
            "prompt_tokens": int(records.prompt_tokens[i]),
            "output_tokens": int(records.output_tokens[i]),
            "preemptions": int(row["preemptions"]),
        }
        about = {"cat": "request", "id": i, "pid": int(row["replica"]), "tid": 0}
        yield {"ph": "b", "name": f"request {i}", "ts": _us(times_s[0]), **about, "args": args}
        for name, start_s, end_s in zip(
            ("queued", "prefill", "decode"), times_s, times_s[1:], strict=False
        ):
            yield {"ph": "b", "name": name, "ts": _us(start_s), **about}
            yield {"ph": "e", "name": name, "ts": _us(end_s), **about}
        yield {"ph": "e", "name": f"request {i}", "ts": _us(times_s[3]), **about}


def _flows(records: Records, shown: Shown) -> Iterator[Event]:
    """From the step of the first token (since the last preemption) to that of the last, both drawn."""
    drawn = np.zeros(len(records.steps), dtype=np.bool_)
    drawn[shown.steps] = True
    order = np.argsort(records.lane, kind="stable")
    first_of_lane = np.searchsorted(
        records.lane[order], np.arange(records.replicas * records.stages)
    )
    for i in shown.requests.tolist():
        row = records.requests[i]
        offset = first_of_lane[row["lane"]]
        ends = [order[offset + step] for step in (row["prompt"] - row["base"] - 1, row["last"])]
        if ends[0] == ends[1] or not drawn[ends].all():
            continue
        replica, slot = divmod(int(row["lane"]), records.stages)
        about = {"name": "request", "cat": "flow", "id": i, "pid": replica, "tid": slot}
        yield {"ph": "s", "ts": _us(records.start_s[ends[0]]), **about}
        yield {"ph": "f", "bp": "e", "ts": _us(records.start_s[ends[1]]), **about}
