"""A run's requests and steps as Parquet tables, for pandas, polars, DuckDB and spreadsheets."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from servecast.simulator.engine.records import Records
from servecast.simulator.report.columns import Columns, request_columns, step_columns
from servecast.simulator.traffic.workload import Workload


def write_requests(records: Records, workload: Workload, path: Path) -> None:
    """One row a request, in order of arrival; a time that never came is NULL."""
    _write(request_columns(records, workload), path)


def write_steps(records: Records, path: Path) -> None:
    """One row a step (a batch), in the order of launching."""
    _write(step_columns(records), path)


def _write(columns: Columns, path: Path) -> None:
    """NaN becomes NULL: absent is not a number that an average may meet."""
    plain = {name: np.ascontiguousarray(values) for name, values in columns.items()}
    chosen = ", ".join(
        f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
        if values.dtype.kind == "f"
        else name
        for name, values in plain.items()
    )
    with duckdb.connect() as connection:
        connection.register("run", plain)
        connection.sql(f"SELECT {chosen} FROM run").write_parquet(str(path), compression="zstd")
