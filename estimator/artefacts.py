"""What a store keeps although it can be computed again: fitted models and runtime tables, in small parts.

DuckDB reads 2,048 rows to give one: of bodies of some MB each that is nearly all of a store.
"""

from __future__ import annotations

import duckdb
import numpy as np

PART_BYTES = 4000
"""A row below 4,096 bytes lies among the others of its column, not apart."""


def cached(sql: duckdb.DuckDBPyConnection, key: str) -> bytes | None:
    rows = sql.execute(f"SELECT key, body FROM artefact WHERE {_PARTS}", _parts(key)).fetchall()
    return b"".join(body for _, body in sorted(rows)) if rows else None


def put_cached(sql: duckdb.DuckDBPyConnection, key: str, kind: str, body: bytes) -> None:
    sql.execute(f"DELETE FROM artefact WHERE {_PARTS}", _parts(key))
    starts = range(0, max(len(body), 1), PART_BYTES)
    parts = np.empty(len(starts), object)  # DuckDB reads arrays by name
    parts[:] = [body[at : at + PART_BYTES] for at in starts]
    keys = np.array([f"{key}#{place:06}" for place in range(len(parts))], object)
    sql.register("parts", {"key": keys, "body": parts})
    sql.execute("INSERT INTO artefact SELECT key, ?, body FROM parts", (kind,))
    sql.unregister("parts")


def artefacts(sql: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many there are of each kind."""
    whole = "count(DISTINCT split_part(key, '#', 1))"
    rows = sql.execute(f"SELECT kind, {whole} FROM artefact GROUP BY kind ORDER BY kind").fetchall()
    return {str(kind): int(count) for kind, count in rows}


_PARTS = "key >= ? AND key < ?"


def _parts(key: str) -> tuple[str, str]:
    """Between these are the keys of a body's parts: ``#`` comes before ``$``."""
    return f"{key}#", f"{key}$"
