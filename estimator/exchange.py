"""Measurements on their way from one store to another, and columns of others' Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import DataMissingError
from servecast.estimator.schema import quiet

ORIGIN = "source, package, version, file, licence"


def export(sql: duckdb.DuckDBPyConnection, path: Path) -> int:
    written = sql.execute(
        "COPY (SELECT m.* EXCLUDE (origin_id), o.* EXCLUDE (id) FROM measurement m"
        " JOIN origin o ON o.id = m.origin_id ORDER BY content_hash)"
        f" TO {_quoted(path)} (FORMAT parquet)"
    ).fetchall()
    return int(written[0][0])


def merge(sql: duckdb.DuckDBPyConnection, path: Path) -> None:
    """All rows of the file are in when this returns, or none.

    Raises:
        DataMissingError: the file is not an export.
    """
    file = f"read_parquet({_quoted(path)})"
    sql.execute("BEGIN")
    try:
        sql.execute(
            f"INSERT INTO origin (id, {ORIGIN}) SELECT (SELECT coalesce(max(id), 0) FROM origin)"
            f" + row_number() OVER (), {ORIGIN} FROM (SELECT DISTINCT {ORIGIN} FROM {file}"
            f" EXCEPT SELECT {ORIGIN} FROM origin)"
        )
        sql.execute(
            f"INSERT INTO measurement BY NAME SELECT f.* EXCLUDE ({ORIGIN}), o.id AS origin_id"
            f" FROM {file} f JOIN origin o USING ({ORIGIN}) ON CONFLICT DO NOTHING"
        )
        sql.execute("COMMIT")
    except duckdb.Error as error:
        sql.execute("ROLLBACK")
        why = str(error).splitlines()[0]
        raise DataMissingError(f"{path}: not an export of a profile store: {why}") from error


def read_parquet(
    path: Path, columns: Sequence[str], equal: dict[str, object]
) -> dict[str, NDArray[Any]]:
    """Those of ``columns`` [rows] that the file has, of rows whose ``equal`` columns have these values."""
    table = "FROM read_parquet($path)"
    with quiet(duckdb.connect()) as sql:
        there = sql.execute(f"DESCRIBE SELECT * {table}", {"path": str(path)}).fetchall()
        names = ", ".join(str(row[0]) for row in there if row[0] in columns)
        where = " AND ".join(f"{name} = ${name}" for name in equal) or "TRUE"
        query = f"SELECT {names} {table} WHERE {where}"
        read = sql.execute(query, {"path": str(path), **equal}).fetchnumpy()
    return {name: np.asarray(column) for name, column in read.items()}


def _quoted(path: Path) -> str:
    """A path as an SQL literal; COPY takes no parameters."""
    return "'" + str(path).replace("'", "''") + "'"
