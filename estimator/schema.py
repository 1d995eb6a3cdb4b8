"""Opens the store's file, makes its schema, and brings an older one up to date."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import duckdb

from servecast.compiler.errors import DataMissingError

SCHEMA_VERSION = 1
MIGRATIONS: dict[int, str] = {}  # SQL from this version to the next one


PATIENCE_S = 60.0  # other runs open a store for seconds; a profiling run keeps it
RETRY_S = 0.2


def connect(where: Path, read_only: bool, patience_s: float) -> duckdb.DuckDBPyConnection:
    """Waits up to ``patience_s`` while another process has the file open.

    Raises:
        DataMissingError: the file is not DuckDB, or stays in use.
    """
    give_up = time.monotonic() + patience_s
    while True:
        try:
            return quiet(duckdb.connect(str(where), read_only=read_only))
        except duckdb.Error as error:
            why = str(error).splitlines()[0]
            if "lock" not in why:
                message = f"{where}: cannot be opened as a profile store: {why}"
                raise DataMissingError(message) from error
            if time.monotonic() > give_up:
                raise DataMissingError(_in_use(where, why, patience_s)) from error
        time.sleep(RETRY_S)


def quiet(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Without DuckDB's progress bar, which is drawn on stdout where Python has no main file (``-c``)."""
    with suppress(duckdb.InvalidInputException):  # in a notebook that lacks ipywidgets it has none
        connection.execute("SET enable_progress_bar = false")
    return connection


def _in_use(where: Path, why: str, patience_s: float) -> str:
    holder = re.search(r"PID (\d+)", why)
    by = f"by process {holder[1]}" if holder else "by another process"
    return (
        f"{where}: the store is in use {by}, still after {patience_s:g} s; wait for it to end, or give"
        " --store another file"
    )


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
