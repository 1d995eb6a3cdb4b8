"""A run's requests and steps as Parquet tables, for pandas, polars, DuckDB and spreadsheets."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from servecast.simulator.report.columns import Columns


def write_columns(columns: Columns, path: Path) -> None:
    """One table; NaN becomes NULL: absent is not a number that an average may meet."""
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
