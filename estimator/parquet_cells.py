"""What cells of a Parquet file must be: the first that is not is named by its row and column, before
anything of the file is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from servecast.compiler.errors import DataMissingError

MEASURED = ("latency", "power", "power_limit")  # a package's columns that tell no case: ms, W, W
CONTRADICTION = 5.0  # an H200's NCCL table has two times of one case that are 4.2 times apart

SWEPT = {"m": 1, "num_tokens": 1, "message_size": 1, "step": 1, "isl": 2}
"""Sizes of a package's tables, and with which power of each a kernel's work grows at most."""
OTHER_UNIT = 300.0  # units are a thousand apart; an H200's latent decodes jump by 191


@dataclass(frozen=True, slots=True)
class Cells:
    """A column, the SQL condition that each of its cells meets, and that condition in words."""

    column: str
    condition: str
    wanted: str


def text(column: str) -> Cells:
    return Cells(column, f"{named(column)} IS NOT NULL", "a text")


def whole(column: str, least: int = 1) -> Cells:
    value = _number(column)
    wanted = f"a whole number of at least {least}"
    return Cells(column, f"{value} >= {least} AND {value} = floor({value})", wanted)


def positive_time(column: str, unit: str) -> Cells:
    value = _number(column)
    return Cells(column, f"{value} > 0 AND isfinite({value})", f"a positive time in {unit}")


def time(column: str, unit: str) -> Cells:
    """Zero, too."""
    value = _number(column)
    return Cells(column, f"{value} >= 0 AND isfinite({value})", f"a time in {unit}")


def parquet(path: Path) -> str:
    """The file's rows in SQL, with ``file_row_number`` from 0. Folders named ``a=b`` are no columns."""
    return f"read_parquet({quoted(path)}, file_row_number = true, hive_partitioning = false)"


def columns_in(sql: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    described = sql.execute(f"DESCRIBE SELECT * EXCLUDE (file_row_number) FROM {parquet(path)}")
    return [str(row[0]) for row in described.fetchall()]


def refuse_bad_cells(
    sql: duckdb.DuckDBPyConnection, path: Path, cells: Sequence[Cells], of: str
) -> None:
    """``of`` is what the file should be.

    Raises:
        DataMissingError: it lacks one of the columns, or has a cell there that does not meet its condition.
    """
    missing = {x.column for x in cells} - set(columns_in(sql, path))
    if missing:
        raise DataMissingError(f"{path}: no column {', '.join(sorted(missing))}; is it {of}?")
    firsts = (
        f"min(file_row_number) FILTER (WHERE NOT coalesce({x.condition}, false))" for x in cells
    )
    (found,) = sql.execute(f"SELECT {', '.join(firsts)} FROM {parquet(path)}").fetchall()
    bad = [(row, cell) for row, cell in zip(found, cells, strict=True) if row is not None]
    if bad:
        row, cell = min(bad, key=lambda x: x[0])
        read = f"SELECT {named(cell.column)} FROM {parquet(path)} WHERE file_row_number = ?"
        ((value,),) = sql.execute(read, [row]).fetchall()
        told = "an empty cell" if value is None else repr(value)
        where = f"{path}: row {row + 1}: column {cell.column}"
        raise DataMissingError(f"{where}: {told} is not {cell.wanted}")


@dataclass(frozen=True, slots=True)
class Times:
    """Rows of one file that say how long cases took: ``rows`` in SQL, with ``file_row_number`` from 0, and
    ``case``, the columns that tell a case. ``swept`` are sizes, and with which power of each a kernel's work
    grows at most.
    """

    path: Path
    rows: str
    column: str
    unit: str
    case: tuple[str, ...]
    swept: Mapping[str, int]

    def at(self, row: int) -> str:
        return f"{self.path}: row {row + 1}: column {self.column}"


def package_times(sql: duckdb.DuckDBPyConnection, path: Path) -> Times:
    """Rows of a package's table that are equal but in what was measured are one case."""
    case = tuple(name for name in columns_in(sql, path) if name not in MEASURED)
    return Times(path, parquet(path), "latency", "ms", case, SWEPT)


def refuse_contradiction(sql: duckdb.DuckDBPyConnection, times: Times) -> None:
    """
    Raises:
        DataMissingError: the file says clearly different times of one case.
    """
    case = ", ".join(map(named, times.case))
    value, row = _number(times.column), "file_row_number"
    found = sql.execute(
        f"SELECT arg_min({row}, {value}) AS short, min({value}), arg_max({row}, {value}) AS long,"
        f" max({value}) FROM {times.rows} GROUP BY {case}"
        f" HAVING max({value}) > {CONTRADICTION} * min({value})"
        " ORDER BY greatest(short, long) LIMIT 1"
    ).fetchall()
    for short, least, long, most in found:
        (before, known), (row, told) = sorted([(short, least), (long, most)])
        raise DataMissingError(
            f"{times.at(row)}: {told:.4g} {times.unit} contradicts the {known:.4g} {times.unit} of the"
            f" same case in row {before + 1}"
        )


def refuse_other_unit(sql: duckdb.DuckDBPyConnection, times: Times) -> None:
    """Of rows that differ in one size, each is compared with the next smaller one.

    Raises:
        DataMissingError: one of two is in another unit of time.
    """
    for swept, power in times.swept.items():
        if swept not in times.case:
            continue
        rest = ", ".join(named(name) for name in times.case if name != swept)
        value, size = _number(times.column), f"greatest({_number(swept)}, 1)"
        found = sql.execute(
            "SELECT row, value, row_before, before FROM (SELECT file_row_number AS row,"
            f" {value} AS value, {size} AS size, lag(file_row_number) OVER w AS row_before,"
            f" lag({value}) OVER w AS before, lag({size}) OVER w AS size_before FROM {times.rows}"
            f" WINDOW w AS (PARTITION BY {rest} ORDER BY {size})) WHERE"
            f" value > {OTHER_UNIT} * before * pow(size / size_before, {power})"
            f" OR before > {OTHER_UNIT} * value ORDER BY row LIMIT 1"
        ).fetchall()
        for row, told, row_before, known in found:
            raise DataMissingError(
                f"{times.at(row)}: {told:.4g} {times.unit} beside {known:.4g} {times.unit} in row"
                f" {row_before + 1}, which is of another {swept} alone: is one in another unit of time?"
            )


def named(column: str) -> str:
    return f'"{column}"'


def quoted(path: Path) -> str:
    """A path as an SQL literal; COPY takes no parameters."""
    return "'" + str(path).replace("'", "''") + "'"


def _number(column: str) -> str:
    """Not a number where it cannot be read as one; no comparison holds of that."""
    return f"TRY_CAST({named(column)} AS DOUBLE)"
