"""The tables of a run: every request and every step, absent times as NULL."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Fleet, simulate
from servecast.simulator.report.columns import request_columns, step_columns
from servecast.simulator.report.parquet import write_columns
from servecast.simulator.traffic.workload import TraceOrigin


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.sql(query.replace("TABLE", f"'{path}'")).fetchall()


@pytest.mark.parametrize("seed", range(10))
def test_the_tables_hold_every_request_and_step(tmp_path: Path, seed: int) -> None:
    workload, fleet = random_case(seed)
    records = simulate(workload, fleet, compiled=False)
    write_columns(request_columns(records, workload), tmp_path / "r.parquet")
    write_columns(step_columns(records), tmp_path / "s.parquet")
    found = rows(tmp_path / "r.parquet", "SELECT request, finish_s, rejected FROM TABLE")
    assert [row[0] for row in found] == list(range(len(workload)))
    assert [row[1] for row in found] == [None if np.isnan(x) else x for x in records.finish_s]
    assert [row[2] for row in found] == records.rejected.tolist()
    steps = rows(tmp_path / "s.parquet", "SELECT count(*), sum(decodes), max(end_s) FROM TABLE")
    expected = (len(records.steps), records.decodes.sum() if len(records.steps) else None)
    assert steps[0][:2] == expected


def test_latencies_worked_by_hand(tmp_path: Path) -> None:
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=8, kv_blocks=3, block_tokens=4)
    workload = workload_of((0, 3, 2), (1, 4, 1), (2, 30, 1))
    origin = TraceOrigin("t.csv", "servecast", np.array([2, 3, 5]))
    workload = dataclasses.replace(workload, origin=origin)
    records = simulate(workload, Fleet(tables_of(), limits), compiled=False)
    write_columns(request_columns(records, workload), tmp_path / "r.parquet")
    columns = "trace_line, queue_delay_s, ttft_s, tpot_s, e2e_s, rejected"
    assert rows(tmp_path / "r.parquet", f"SELECT {columns} FROM TABLE") == [
        (2, 0.0, 3.0, 5.0, 8.0, False),
        (3, 2.0, 7.0, None, 7.0, False),
        (5, None, None, None, None, True),
    ]
    write_columns(step_columns(records), tmp_path / "s.parquet")
    columns = "start_s, end_s, prefill_tokens, decodes, sequences, cached_tokens, used_blocks"
    assert rows(tmp_path / "s.parquet", f"SELECT {columns} FROM TABLE") == [
        (0.0, 3.0, 3, 0, 1, 0, 1),
        (3.0, 8.0, 4, 1, 2, 3, 2),
    ]
