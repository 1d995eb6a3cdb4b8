"""Measurements on their way from one store to another, as a Parquet file."""

from __future__ import annotations

from pathlib import Path

import duckdb

from servecast.compiler.errors import DataMissingError

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


def _quoted(path: Path) -> str:
    """A path as an SQL literal; COPY takes no parameters."""
    return "'" + str(path).replace("'", "''") + "'"
