"""Opens the store's file, makes its schema, and brings an older one up to date."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import click
import duckdb

from servecast.compiler.errors import DataMissingError

SCHEMA_VERSION = 1
MIGRATIONS: dict[int, str] = {}  # SQL from this version to the next one


PATIENCE_S = 60.0  # with a holder that is not seen here: of another machine or container
TELL_AFTER_S = 3.0  # others open a store for a moment, or while they fit models to what is new
RETRY_S = 0.2


def connect(where: Path, read_only: bool, patience_s: float | None) -> duckdb.DuckDBPyConnection:
    """Waits up to ``patience_s`` while another process has the file open; None: as long as that process
    lives, and says so once.

    Raises:
        DataMissingError: the file is not DuckDB, or stays in use.
    """
    began_s, told = time.monotonic(), False
    while True:
        try:
            return quiet(duckdb.connect(str(where), read_only=read_only))
        except duckdb.Error as error:
            why = str(error).splitlines()[0]
            if "lock" not in why:
                if _is_other(where):
                    why = "it is no DuckDB file"
                message = f"{where}: cannot be opened as a profile store: {why}"
                raise DataMissingError(message) from error
            waited_s, holder = time.monotonic() - began_s, _holder(why)
            most_s = PATIENCE_S if patience_s is None else patience_s
            if waited_s > most_s and (patience_s is not None or not _lives(holder)):
                raise DataMissingError(_in_use(where, holder, most_s)) from error
        if patience_s is None and not told and waited_s > TELL_AFTER_S:
            told = True
            why = "Ctrl-C gives up, --store with another file does without"
            click.echo(f"{where}: in use {_by(holder)}; waiting for it ({why})", err=True)
        time.sleep(RETRY_S)


def _is_other(where: Path) -> bool:
    """Whether it is a file without the mark of DuckDB's, eight bytes from its beginning."""
    if not where.is_file():
        return False
    with where.open("rb") as file:
        return file.read(12)[8:] != b"DUCK"


def quiet(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Without DuckDB's progress bar, which is drawn on stdout where Python has no main file (``-c``)."""
    with suppress(duckdb.InvalidInputException):  # in a notebook that lacks ipywidgets it has none
        connection.execute("SET enable_progress_bar = false")
    return connection


def _holder(why: str) -> int | None:
    """The process that DuckDB says has the file."""
    named = re.search(r"PID (\d+)", why)
    return int(named[1]) if named else None


def _lives(process: int | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _by(process: int | None) -> str:
    return "by another process" if process is None else f"by process {process}"


def _in_use(where: Path, holder: int | None, patience_s: float) -> str:
    return (
        f"{where}: the store is in use {_by(holder)}, still after {patience_s:g} s; wait for it to end, or"
        " give --store another file"
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
