"""Measurements on their way from one store to another, and columns of others' Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.estimator.physics import WORK, KernelKind
from servecast.estimator.quarantine import IMPOSSIBLE, too_fast
from servecast.estimator.schema import quiet

ORIGIN = "source, package, version, file, licence"
KIND = ("sku", "kernel", "dtype", "kv_dtype")
SOUND = "quarantine IS NULL AND outcome = 'measured'"
NO_SIZES = ("num_samples", "measured_at_ns")


def export(sql: duckdb.DuckDBPyConnection, path: Path) -> int:
    written = sql.execute(
        "COPY (SELECT m.* EXCLUDE (origin_id) REPLACE (content_hash::VARCHAR AS content_hash),"
        " o.* EXCLUDE (id) FROM measurement m"  # Parquet has no integer as wide as a hash
        " JOIN origin o ON o.id = m.origin_id ORDER BY m.content_hash)"
        f" TO {_quoted(path)} (FORMAT parquet)"
    ).fetchall()
    return int(written[0][0])


def merge(sql: duckdb.DuckDBPyConnection, path: Path, skus: Mapping[str, Sku]) -> int:
    """All rows of the file are in when this returns, or none. How many of them are too fast for the data
    sheet of their GPU, where it is among ``skus``: those are kept from estimators.

    Raises:
        DataMissingError: the file is not an export.
    """
    file = f"read_parquet({_quoted(path)})"
    sql.execute("BEGIN")
    try:
        sql.execute(
            "CREATE OR REPLACE TEMP TABLE arriving AS SELECT * REPLACE"
            f" (content_hash::UHUGEINT AS content_hash) FROM {file}"
        )
        kept_back = sum(_keep_back(sql, kind, skus) for kind in _sound_kinds(sql))
        sql.execute(
            f"INSERT INTO origin (id, {ORIGIN}) SELECT (SELECT coalesce(max(id), 0) FROM origin)"
            f" + row_number() OVER (), {ORIGIN} FROM (SELECT DISTINCT {ORIGIN} FROM arriving"
            f" EXCEPT SELECT {ORIGIN} FROM origin)"
        )
        sql.execute(
            f"INSERT INTO measurement BY NAME SELECT f.* EXCLUDE ({ORIGIN}), o.id AS origin_id"
            f" FROM arriving f JOIN origin o USING ({ORIGIN}) ON CONFLICT DO NOTHING"
        )
        sql.execute("DROP TABLE arriving; COMMIT")
    except (duckdb.Error, KeyError) as error:  # a size that its kernel has is the key
        sql.execute("ROLLBACK")
        why = str(error).splitlines()[0]
        raise DataMissingError(f"{path}: not an export of a profile store: {why}") from error
    return kept_back


def _sound_kinds(sql: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
    """SKU, kernel and formats of arriving rows that an estimator would read."""
    read = f"SELECT DISTINCT {', '.join(KIND)} FROM arriving WHERE {SOUND}"
    return sql.execute(read).fetchall()


def _keep_back(
    sql: duckdb.DuckDBPyConnection, kind: tuple[str, ...], skus: Mapping[str, Sku]
) -> int:
    """Marks what no GPU of that data sheet can do; how many rows."""
    sku, kernel, dtype, kv_dtype = kind
    if sku not in skus or kernel not in WORK:
        return 0
    columns = sql.execute("DESCRIBE arriving").fetchall()
    sizes = [str(x[0]) for x in columns if x[1] == "BIGINT" and x[0] not in NO_SIZES]
    of_kind = " AND ".join(f"{name} = ?" for name in KIND)
    read = sql.execute(
        f"SELECT content_hash::VARCHAR AS hash, coalesce(median_s, mean_s) AS seconds,"
        f" {', '.join(map(_named, sizes))} FROM arriving WHERE {SOUND} AND {of_kind}",
        kind,
    ).fetchnumpy()
    known = [name for name in sizes if not np.ma.getmaskarray(read[name]).all()]
    dims = {name: np.ma.filled(read[name], 0).astype(np.int64) for name in known}
    broken = too_fast(skus[sku], KernelKind(kernel, dtype, kv_dtype), dims, read["seconds"])
    sql.execute(
        "UPDATE arriving SET quarantine = ? WHERE content_hash::VARCHAR IN (SELECT unnest(?))",
        (IMPOSSIBLE, read["hash"][broken].tolist()),
    )
    return int(np.count_nonzero(broken))


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


def _named(column: str) -> str:
    return f'"{column}"'


def _quoted(path: Path) -> str:
    """A path as an SQL literal; COPY takes no parameters."""
    return "'" + str(path).replace("'", "''") + "'"
