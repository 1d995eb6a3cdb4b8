"""A run with prefill and decode apart as columns and as a Chrome trace. Pure.

In the trace the decode replicas are processes behind the prefill replicas, each with tracks of what it did of
a request; between the two a request's transfer is a phase of its prefill replica's track.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

import numpy as np

from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.report.columns import Columns, request_columns, step_columns
from servecast.simulator.report.timeline import Event, choose, events, told, write_events
from servecast.simulator.traffic.workload import Workload


def pool_request_columns(run: DisaggregatedRun, workload: Workload) -> Columns:
    """As `request_columns`, ``replica`` the prefill pool's; a decode replica of -1: it had no part in it."""
    count, output = len(workload), run.output_tokens
    first_s, finish_s = run.prefill.first_token_s, run.finish_s
    preemptions = run.prefill.preemptions.copy()
    decode_replica = np.full(count, -1)
    decode_scheduled_s = np.full(count, np.nan)
    if run.decode is not None:
        preemptions[run.decoded] += run.decode.preemptions
        decode_replica[run.decoded] = run.decode.replica
        decode_scheduled_s[run.decoded] = run.decode.scheduled_s
    gaps = np.where(output > 1, output - 1.0, np.nan)
    return {
        **request_columns(run.prefill, workload),
        "finish_s": finish_s,
        "queue_delay_s": run.queue_delay_s,
        "tpot_s": (finish_s - first_s) / gaps,
        "e2e_s": finish_s - run.prefill.arrival_s,
        "output_tokens": output,
        "preemptions": preemptions,
        "rejected": run.rejected,
        "decode_replica": decode_replica,
        "received_s": first_s + run.transfer_s,
        "decode_scheduled_s": decode_scheduled_s,
    }


def pool_step_columns(run: DisaggregatedRun) -> Columns:
    """The prefill pool's steps, then the decode pool's."""
    pools = {"prefill": run.prefill, "decode": run.decode}
    parts = {name: step_columns(records) for name, records in pools.items() if records is not None}
    pool = [np.full(len(part["start_s"]), name) for name, part in parts.items()]
    joined = {
        name: np.concatenate([part[name] for part in parts.values()]) for name in parts["prefill"]
    }
    return {"pool": np.concatenate(pool).astype(object), **joined}


def write_pool_timeline(run: DisaggregatedRun, file: TextIO) -> None:
    """Stream the trace of both pools into ``file``; equal runs give equal bytes."""
    shown = choose(run.prefill)
    other = {"prefill": told(run.prefill, shown)}
    if run.decode is not None:
        other["decode"] = told(run.decode, choose(run.decode))
    write_events(_events(run), other, file)


def _events(run: DisaggregatedRun) -> Iterator[Event]:
    shown = choose(run.prefill)
    yield from (_named(event, "prefill") for event in events(run.prefill, shown))
    yield from _transfers(run, shown.requests.tolist())
    if run.decode is None:
        return
    numbers = run.decoded.tolist()
    for event in events(run.decode, choose(run.decode)):
        moved = _named(event, "decode") | {"pid": event["pid"] + run.prefill.replicas}
        if "id" in event:
            number = numbers[event["id"]]
            moved["id"] = number
            if event["name"].startswith("request "):
                moved["name"] = f"request {number}"
        yield moved


def _named(event: Event, pool: str) -> Event:
    if event["name"] != "process_name":
        return event
    return event | {"args": {"name": f"{pool} {event['args']['name']}"}}


def _transfers(run: DisaggregatedRun, shown: list[int]) -> Iterator[Event]:
    """Over the link, its queue and latency included."""
    for i in shown:
        if np.isnan(run.transfer_s[i]):
            continue
        first_s = float(run.prefill.first_token_s[i])
        ends_s = (first_s, first_s + float(run.transfer_s[i]))
        about = {"cat": "request", "id": i, "pid": int(run.prefill.replica[i]), "tid": 0}
        for phase, at_s in zip("be", ends_s, strict=True):
            yield {"ph": phase, "name": "transfer", "ts": round(at_s * 1e6, 3), **about}
