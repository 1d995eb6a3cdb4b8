"""The timeline is a valid Chrome trace of exactly the run, or of the windows that it says."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Fleet, simulate
from servecast.simulator.report.timeline import (
    MAX_STEPS,
    NUM_WINDOWS,
    choose,
    events,
    write_timeline,
)

Event = dict[str, Any]
SEEDS = range(40)


def run(seed: int) -> Records:
    return simulate(*random_case(seed), compiled=False)


def trace(records: Records) -> dict[str, Any]:
    file = io.StringIO()
    write_timeline(records, file)
    found = json.loads(file.getvalue())
    assert isinstance(found, dict)
    return found


def of_kind(records: Records, kind: str) -> list[Event]:
    return [event for event in trace(records)["traceEvents"] if event["ph"] == kind]


def test_a_schedule_worked_by_hand() -> None:
    """A second a token: the prompt of 3 with 2 outputs takes 3 s and 1 s, the second comes meanwhile."""
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=8, kv_blocks=10, block_tokens=4)
    workload = workload_of((0, 3, 2), (1, 4, 1))
    records = simulate(workload, Fleet(tables_of(), limits), compiled=False)
    slices = [(e["name"], e["ts"], e["dur"]) for e in of_kind(records, "X")]
    assert slices == [("prefill", 0, 3e6), ("prefill + decode", 3e6, 5e6)]
    begins = [(e["id"], e["name"], e["ts"]) for e in of_kind(records, "b") if e["id"] == 1]
    assert begins == [
        (1, "request 1", 1e6),
        (1, "queued", 1e6),
        (1, "prefill", 3e6),
        (1, "decode", 8e6),
    ]
    waiting = [e["args"]["requests"] for e in of_kind(records, "C") if e["name"] == "waiting"]
    assert waiting == [0, 0]
    flows = [(e["ph"], e["id"], e["ts"]) for e in trace(records)["traceEvents"] if e["ph"] in "sf"]
    assert flows == [("s", 0, 0), ("f", 0, 3e6)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_is_one_slice_and_those_of_a_slot_do_not_overlap(seed: int) -> None:
    records = run(seed)
    by_slot: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in of_kind(records, "X"):
        by_slot[event["pid"], event["tid"]].append(event)
    assert sum(map(len, by_slot.values())) == len(records.steps)
    for slices in by_slot.values():
        for before, after in pairwise(slices):
            assert (
                before["ts"] + before["dur"] <= after["ts"] + 0.002
            )  # two roundings to a nanosecond


@pytest.mark.parametrize("seed", SEEDS)
def test_every_finished_request_is_a_track_of_three_phases_that_follow_each_other(
    seed: int,
) -> None:
    records = run(seed)
    spans: dict[int, list[tuple[str, str, float]]] = defaultdict(list)
    for event in trace(records)["traceEvents"]:
        if event["ph"] in "be":
            spans[event["id"]].append((event["ph"], event["name"], event["ts"]))
    assert sorted(spans) == np.flatnonzero(records.finished).tolist()
    for request, marks in spans.items():
        assert [name for phase, name, _ in marks if phase == "b"][1:] == [
            "queued",
            "prefill",
            "decode",
        ]
        assert [at for _, _, at in marks] == sorted(at for _, _, at in marks)
        assert marks[-1][2] == pytest.approx(records.finish_s[request] * 1e6, abs=0.001)


@pytest.mark.parametrize("seed", SEEDS)
def test_flows_go_in_pairs_from_slice_to_slice(seed: int) -> None:
    records = run(seed)
    found = trace(records)["traceEvents"]
    starts = {(e["pid"], e["tid"], e["ts"]) for e in found if e["ph"] == "X"}
    flows = [event for event in found if event["ph"] in "sf"]
    assert all((e["pid"], e["tid"], e["ts"]) in starts for e in flows)
    assert set(Counter((e["id"], e["ph"]) for e in flows).values()) <= {1}
    assert {e["id"] for e in flows if e["ph"] == "s"} == {e["id"] for e in flows if e["ph"] == "f"}


@pytest.mark.parametrize("seed", SEEDS)
def test_counters_stay_within_what_they_count(seed: int) -> None:
    records = run(seed)
    for event in of_kind(records, "C"):
        if event["name"] == "KV use":
            assert 0 < event["args"]["share"] <= 1
        else:
            assert 0 <= event["args"]["requests"] <= len(records)


def test_a_long_run_is_cut_to_windows_of_neighbouring_steps_and_says_so() -> None:
    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=8, kv_blocks=10, block_tokens=4)
    workload = workload_of(*((10.0 * i, 3, 4) for i in range(100)))
    records = simulate(workload, Fleet(tables_of(), limits), compiled=False)
    shown = choose(records, max_steps=32, max_requests=5)
    assert len(shown.steps) == 32
    assert len(shown.windows_s) == NUM_WINDOWS
    assert len(shown.requests) == 5
    inside = [
        any(start_s <= records.arrival_s[i] <= end_s for start_s, end_s in shown.windows_s)
        for i in shown.requests
    ]
    assert all(inside)
    kinds = Counter(event["ph"] for event in events(records, shown))
    assert (kinds["X"], kinds["b"]) == (32, 20)
    assert kinds["s"] == kinds["f"] <= 5


def test_no_flow_leaves_the_windows() -> None:
    """Requests of 30 steps in windows of 4: hardly one has both its ends in a window."""
    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=8, kv_blocks=10, block_tokens=4)
    workload = workload_of(*((40.0 * i, 3, 30) for i in range(20)))
    records = simulate(workload, Fleet(tables_of(), limits), compiled=False)
    found = list(events(records, choose(records, max_steps=32)))
    starts = {event["ts"] for event in found if event["ph"] == "X"}
    assert {event["ts"] for event in found if event["ph"] in "sf"} <= starts


def test_rejected_requests_never_wait() -> None:
    limits = EngineLimits(max_num_seqs=1, max_batched_tokens=8, kv_blocks=2, block_tokens=4)
    workload = workload_of((0, 90, 9), (0, 2, 1), (5, 2, 1))
    records = simulate(workload, Fleet(tables_of(), limits), compiled=False)
    waiting = [e["args"]["requests"] for e in of_kind(records, "C") if e["name"] == "waiting"]
    assert waiting == [0, 0]


def test_a_file_does_not_grow_with_the_run_once_it_is_cut() -> None:
    limits = EngineLimits(max_num_seqs=2, max_batched_tokens=8, kv_blocks=10, block_tokens=4)

    def size(num_requests: int) -> int:
        workload = workload_of(*((10.0 * i, 3, 4) for i in range(num_requests)))
        file = io.StringIO()
        write_timeline(simulate(workload, Fleet(tables_of(), limits)), file)
        return len(file.getvalue())

    longer, longest = size(2 * MAX_STEPS // 4), size(6 * MAX_STEPS // 4)
    assert longest < 1.05 * longer  # later times have more digits
    assert longest < 20e6


def test_what_is_left_out_is_told_in_the_file() -> None:
    other = trace(run(3))["otherData"]
    assert other["steps"] == other["steps_shown"]
    assert other["requests"] >= other["requests_shown"]


def test_equal_runs_give_equal_bytes() -> None:
    assert trace(run(7)) == trace(run(7))


def test_a_run_without_a_step_is_an_empty_timeline() -> None:
    limits = EngineLimits(max_num_seqs=1, max_batched_tokens=8, kv_blocks=1, block_tokens=4)
    records = simulate(workload_of((0, 9, 9)), Fleet(tables_of(), limits), compiled=False)
    assert records.rejected.all()
    assert {event["ph"] for event in trace(records)["traceEvents"]} == {"M"}
