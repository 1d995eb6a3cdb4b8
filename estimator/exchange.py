"""Measurements on their way from one store to another, and columns of others' Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import DataMissingError, UserError
from servecast.compiler.hardware import Sku
from servecast.estimator.parquet_cells import (
    Cells,
    Times,
    columns_in,
    named,
    package_times,
    parquet,
    positive_time,
    quoted,
    refuse_bad_cells,
    refuse_contradiction,
    refuse_other_unit,
    text,
    time,
    whole,
)
from servecast.estimator.physics import WORK, KernelKind
from servecast.estimator.quarantine import IMPOSSIBLE, too_fast
from servecast.estimator.schema import quiet

ORIGIN = "source, package, version, file, licence"
KIND = ("sku", "kernel", "dtype", "kv_dtype")
SOUND = "quarantine IS NULL AND outcome = 'measured'"
AGENTS = "source = 'agent'"  # a package's tables tell cases apart that a store does not
NO_SIZES = ("num_samples", "measured_at_ns")
TEXTS = ("kernel", "dtype", "kv_dtype", "sku", "outcome", "method", "variant", "flags", "node")
STATISTICS = ("std_s", "min_s", "median_s", "p90_s")
SWEPT = {"rows": 1, "batch": 1, "context": 1, "chunk": 2, "payload_bytes": 1}
"""Sizes of a store's cases, and with which power of each a kernel's work grows at most."""
MAY_BE_ZERO = {"window", "context", "residual"}
EXPORT = "an export of a profile store"


def export(sql: duckdb.DuckDBPyConnection, path: Path) -> int:
    """How many rows were written; the file is there whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        written = sql.execute(
            "COPY (SELECT m.* EXCLUDE (origin_id) REPLACE (content_hash::VARCHAR AS content_hash),"
            " o.* EXCLUDE (id) FROM measurement m"  # Parquet has no integer as wide as a hash
            " JOIN origin o ON o.id = m.origin_id ORDER BY m.content_hash)"
            f" TO {quoted(partial)} (FORMAT parquet)"
        ).fetchall()
        partial.replace(path)
    except (duckdb.Error, OSError) as error:
        raise UserError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error
    return int(written[0][0])


def merge(sql: duckdb.DuckDBPyConnection, path: Path, skus: Mapping[str, Sku]) -> int:
    """All rows of the file are in when this returns, or none. How many of them are too fast for the data
    sheet of their GPU, where it is among ``skus``: those are kept from estimators.

    Raises:
        DataMissingError: the file is not an export, or has a wrong cell, a time that contradicts another of
            its case or one in another unit; it is named by row and column.
    """
    sql.execute("BEGIN")
    try:
        refuse_bad_cells(sql, path, _cells_of(sql, path), EXPORT)
        sql.execute(
            "CREATE OR REPLACE TEMP TABLE arriving AS SELECT * REPLACE"
            f" (content_hash::UHUGEINT AS content_hash) FROM {parquet(path)}"
        )
        kept_back = sum(_keep_back(sql, kind, skus) for kind in _sound_kinds(sql))
        refuse_contradiction(sql, _times_of(sql, path, AGENTS))
        refuse_other_unit(sql, _times_of(sql, path, "TRUE"))
        sql.execute(
            f"INSERT INTO origin (id, {ORIGIN}) SELECT (SELECT coalesce(max(id), 0) FROM origin)"
            f" + row_number() OVER (), {ORIGIN} FROM (SELECT DISTINCT {ORIGIN} FROM arriving"
            f" EXCEPT SELECT {ORIGIN} FROM origin)"
        )
        sql.execute(
            f"INSERT INTO measurement BY NAME SELECT f.* EXCLUDE ({ORIGIN}, file_row_number),"
            f" o.id AS origin_id FROM arriving f JOIN origin o USING ({ORIGIN}) ON CONFLICT DO NOTHING"
        )
        sql.execute("DROP TABLE arriving; COMMIT")
    except BaseException as error:
        sql.execute("ROLLBACK")
        if isinstance(error, duckdb.Error | KeyError):  # a size that its kernel has is the key
            why = str(error).splitlines()[0]
            raise DataMissingError(f"{path}: not {EXPORT}: {why}") from error
        raise
    return kept_back


def _cells_of(sql: duckdb.DuckDBPyConnection, path: Path) -> list[Cells]:
    """Of an export: a row that was measured has a time, and every size that most of its kernel have."""
    positive = positive_time("mean_s", "s").condition
    timed = f"CASE outcome WHEN 'measured' THEN {positive} ELSE mean_s IS NULL END"
    cells = [*map(text, (*TEXTS, *ORIGIN.split(", "), "content_hash"))]
    cells.append(Cells("mean_s", timed, "a positive time in s, as measured rows alone have"))
    there = set(columns_in(sql, path))
    for statistic in there & set(STATISTICS):
        cells.append(_or_empty(time(statistic, "s")))
    for size in sorted(there & set(sizes_in(sql))):
        kernels = (
            f"SELECT kernel FROM {parquet(path)} GROUP BY kernel"
            f" HAVING 2 * count({named(size)}) > count(*)"
        )
        cells.append(
            _or_empty(whole(size, int(size not in MAY_BE_ZERO)), f"kernel NOT IN ({kernels})")
        )
    return cells


def _times_of(sql: duckdb.DuckDBPyConnection, path: Path, which: str) -> Times:
    """Of what arrives those that estimators would read, if nothing was flagged of them."""
    arriving = {str(x[0]) for x in sql.execute("DESCRIBE arriving").fetchall()}
    sizes = [name for name in sizes_in(sql) if name in arriving]
    case = (*KIND, *sizes, "method", "variant", "node", *ORIGIN.split(", "))
    calm = f"(SELECT * FROM arriving WHERE {SOUND} AND flags = '' AND {which})"
    return Times(path, calm, "mean_s", "s", case, SWEPT)


def sizes_in(sql: duckdb.DuckDBPyConnection) -> list[str]:
    """The columns of a store's measurements that hold a kernel's dimensions."""
    columns = sql.execute("DESCRIBE measurement").fetchall()
    return [str(row[0]) for row in columns if row[1] == "BIGINT" and row[0] not in NO_SIZES]


def _or_empty(cells: Cells, where: str = "TRUE") -> Cells:
    """The same, or nothing ``where`` that holds."""
    nothing = f"{named(cells.column)} IS NULL AND {where}"
    return Cells(cells.column, f"({nothing}) OR ({cells.condition})", cells.wanted)


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
    arriving = {str(x[0]) for x in sql.execute("DESCRIBE arriving").fetchall()}
    sizes = [name for name in sizes_in(sql) if name in arriving]
    of_kind = " AND ".join(f"{name} = ?" for name in KIND)
    read = sql.execute(
        f"SELECT content_hash::VARCHAR AS hash, coalesce(median_s, mean_s) AS seconds,"
        f" {', '.join(map(named, sizes))} FROM arriving WHERE {SOUND} AND {of_kind}",
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
    path: Path, columns: Sequence[str], equal: dict[str, object], cells: Sequence[Cells], of: str
) -> dict[str, NDArray[Any]]:
    """Those of ``columns`` [rows] that a package's table has, of rows with these values in ``equal``.

    Raises:
        DataMissingError: the file is not ``of`` that kind, one of its ``cells`` is wrong, or its times
            contradict each other.
    """
    try:
        with quiet(duckdb.connect()) as sql:
            refuse_bad_cells(sql, path, cells, of)
            times = package_times(sql, path)
            refuse_contradiction(sql, times)
            if (
                positive_time("latency", "ms") in cells
            ):  # a difference of times may be next to nothing
                refuse_other_unit(sql, times)
            names = ", ".join(named(name) for name in columns_in(sql, path) if name in columns)
            where = " AND ".join(f"{named(name)} = ${name}" for name in equal) or "TRUE"
            query = f"SELECT {names} FROM {parquet(path)} WHERE {where}"
            read = sql.execute(query, equal).fetchnumpy()
    except duckdb.Error as error:
        raise DataMissingError(f"{path}: is not {of}: {str(error).splitlines()[0]}") from error
    return {name: np.asarray(column) for name, column in read.items()}


def count_rows(path: Path) -> int:
    with quiet(duckdb.connect()) as sql:
        ((rows,),) = sql.execute(f"SELECT count(*) FROM {parquet(path)}").fetchall()
    return int(rows)
