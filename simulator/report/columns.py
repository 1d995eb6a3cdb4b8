"""A run's requests and steps as columns, by name: what every kind of table is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.records import Records
from servecast.simulator.traffic.workload import Workload

Columns = dict[str, NDArray[np.generic]]


def request_columns(records: Records, workload: Workload) -> Columns:
    """One row a request, in order of arrival; a time that never came is NaN."""
    output = records.output_tokens
    decoding_s = records.finish_s - records.first_token_s
    columns: Columns = {
        "request": np.arange(len(records)),
        "replica": records.replica,
        "arrival_s": records.arrival_s,
        "scheduled_s": records.scheduled_s,
        "first_token_s": records.first_token_s,
        "finish_s": records.finish_s,
        "queue_delay_s": records.scheduled_s - records.arrival_s,
        "ttft_s": records.first_token_s - records.arrival_s,
        "tpot_s": np.where(output > 1, decoding_s / np.maximum(output - 1, 1), np.nan),
        "e2e_s": records.finish_s - records.arrival_s,
        "prompt_tokens": records.prompt_tokens,
        "output_tokens": output,
        "cached_tokens": _cached(records),
        "preemptions": records.preemptions,
        "rejected": records.rejected,
    }
    if workload.origin is not None:
        columns["trace_line"] = workload.origin.line
    return columns


def _cached(records: Records) -> NDArray[np.int64]:
    """Of each prompt, by the prefix cache at the first admission."""
    hits = records.prefix_hit_tokens
    return np.zeros(len(records), np.int64) if hits is None else hits


def step_columns(records: Records) -> Columns:
    """One row a step (a batch), in the order of launching."""
    steps = records.steps
    return {
        "replica": steps["lane"] // records.stages,
        "slot": steps["lane"] % records.stages,
        "start_s": steps["start_s"],
        "end_s": steps["end_s"],
        "prefill_tokens": steps["tokens"] - steps["decodes"],
        "decodes": steps["decodes"],
        "sequences": steps["sequences"],
        "cached_tokens": steps["cached"],
        "used_blocks": steps["used_blocks"],
    }


def operator_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """One row an operator, as in the summary; nested figures by their names, and a null number is NaN."""
    flat = [_flat_operator(row) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: _column([row[name] for row in flat]) for name in names}


def _flat_operator(row: Mapping[str, Any]) -> dict[str, Any]:
    dims = " ".join(f"{name}={value}" for name, value in row["dims"].items())
    nested = {"sizes": "size", "time_by_source": "share"}
    plain = {name: value for name, value in row.items() if name not in (*nested, "dims")}
    parts = [
        (f"{prefix}_{name}", value)
        for key, prefix in nested.items()
        for name, value in row[key].items()
    ]
    return {**plain, "dims": dims, **dict(parts)}


def _column(values: list[Any]) -> NDArray[np.generic]:
    if isinstance(values[0], str):
        return np.array(values)
    return np.array([np.nan if value is None else value for value in values])
