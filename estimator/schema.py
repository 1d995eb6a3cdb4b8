"""Opens the store's file, makes its schema, and brings an older one up to date."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import duckdb

from servecast.compiler.errors import DataMissingError

SCHEMA_VERSION = 1
MIGRATIONS: dict[int, str] = {}  # SQL from this version to the next one


def connect(where: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    """
    Raises:
        DataMissingError: the file is not DuckDB, or another process has it open.
    """
    try:
        return duckdb.connect(str(where), read_only=read_only)
    except duckdb.Error as error:
        why = str(error).splitlines()[0]
        if "lock" in why:
            raise DataMissingError(
                f"{where}: the store is in use by another process: {why}"
            ) from error
        raise DataMissingError(f"{where}: cannot be opened as a profile store: {why}") from error


def bring_up_to_date(connection: duckdb.DuckDBPyConnection, where: Path) -> None:
    """Makes the schema in an empty file, and migrates an older one.

    Raises:
        DataMissingError: the file is another program's, or of a newer version.
    """
    tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    if not tables:
        schema = files("servecast.estimator").joinpath("schema.sql").read_text(encoding="utf-8")
        connection.execute(f"BEGIN; {schema}; COMMIT")
        return
    if "store_meta" not in tables:
        raise DataMissingError(
            f"{where}: a DuckDB file, but not a profile store: no store_meta table"
        )
    version = int(connection.execute("SELECT schema_version FROM store_meta").fetchall()[0][0])
    if version > SCHEMA_VERSION:
        raise DataMissingError(
            f"{where}: the store has schema version {version}, this program reads up to"
            f" {SCHEMA_VERSION}; a newer servecast opens it"
        )
    for step in range(version, SCHEMA_VERSION):
        connection.execute(
            f"BEGIN; {MIGRATIONS[step]}; UPDATE store_meta SET schema_version = {step + 1}; COMMIT"
        )
