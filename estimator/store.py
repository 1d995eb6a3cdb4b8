"""The profile store: one DuckDB file of measurements and of results computed from them.

All SQL of the project is here, in ``schema.py``, ``insertion.py``, ``exchange.py`` and ``schema.sql``. One
process writes at a time; every write is one transaction, so a process killed in mid-import leaves the store
as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelCase
from servecast.estimator.artefacts import artefacts, cached, put_cached
from servecast.estimator.exchange import export, merge
from servecast.estimator.insertion import insert
from servecast.estimator.measurement import (
    STATISTICS,
    Measurement,
    MeasurementBatch,
    batches_of,
    measurement_from,
)
from servecast.estimator.schema import bring_up_to_date, connect
from servecast.estimator.stored import KernelData, OriginLine, StoreLine

_NOT_DIMENSIONS = frozenset(
    {
        *("content_hash", "origin_id", "kernel", "dtype", "kv_dtype", "sku"),
        *("outcome", "method", "variant", "flags", "node", "conditions"),
        *("num_samples", *STATISTICS, "measured_at_ns", "quarantine"),
    }
)

_KERNELS = {"experts": ["experts", "experts_skewed"]}
# The public tables' names of the routings that agents draw (agent/kernels/skew.py).
_VARIANT = (
    "CASE kernel WHEN 'experts_skewed' THEN 'power_law_1.2'"
    " WHEN 'experts' THEN if(source = 'agent', 'balanced', variant) ELSE variant END AS variant"
)
# Of each case that agents measured three times or more the middle row, or the middle two: a row of a restless
# moment is outvoted, also where it is slow throughout and calls itself calm. Of others the rows that are not
# flagged as unstable; of cases without any, the row that varies least. All rows are kept.
_ENOUGH_TO_VOTE = 3
_OF_AGENTS = (
    "WITH told AS (SELECT *, coalesce(median_s, mean_s) AS seconds,"
    " regexp_matches(flags, 'drifting|heavy_tailed') AS unstable"
    " FROM usable WHERE sku = ? AND source = 'agent')"
    " SELECT content_hash FROM told"
    " WINDOW same AS (PARTITION BY kernel, dtype, kv_dtype, variant, {dims}),"
    " slower AS (same ORDER BY seconds, content_hash)"
    f" QUALIFY if(count(*) OVER same >= {_ENOUGH_TO_VOTE},"
    " row_number() OVER slower IN ((count(*) OVER same + 1) // 2, count(*) OVER same // 2 + 1),"
    " rank() OVER (same ORDER BY unstable, if(unstable, std_s / mean_s, 0)) = 1)"
)


class Store:
    """Use as ``with Store.open(path) as store``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._sql = connection
        self.path = path
        columns = [str(row[0]) for row in connection.execute("DESCRIBE measurement").fetchall()]
        self.dimensions = tuple(c for c in columns if c not in _NOT_DIMENSIONS)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        read_only: bool = False,
        existing: bool = False,
        patience_s: float | None = None,
    ) -> Self:
        """``:memory:`` opens an empty store that is never saved; a file that is not there is made, but for an
        ``existing`` one and to read only. Waits for other processes, as `connect`.

        Raises:
            DataMissingError: the file cannot be opened, stays in use, is not a store, or is of a newer
                version.
        """
        where = Path(path)
        if (read_only or existing) and not where.exists():
            raise DataMissingError(f"{where}: no such store; `servecast store import` makes one")
        connection = connect(where, read_only, patience_s)
        try:
            bring_up_to_date(connection, where)
            return cls(connection, where)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sql.close()

    def add_measurements(self, rows: Iterable[Measurement]) -> int:
        """How many of ``rows`` were new; all are in when this returns, or none."""
        return self.add_batches(batches_of(rows))

    def add_batches(self, batches: Iterable[MeasurementBatch]) -> int:
        """How many rows were new; all are in when this returns, or none.

        Raises:
            DataMissingError: a dimension that the schema does not know.
        """
        before = self._count()
        self._sql.execute("BEGIN")
        try:
            for batch in batches:
                if batch.num_rows:
                    self._refuse_unknown_dimensions(batch)
                    insert(self._sql, batch)
            added = self._count() - before
            self._sql.execute("COMMIT")
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        return added

    def _count(self) -> int:
        return int(self._sql.execute("SELECT count(*) FROM measurement").fetchall()[0][0])

    def _refuse_unknown_dimensions(self, batch: MeasurementBatch) -> None:
        unknown = sorted(set(batch.dims) - set(self.dimensions))
        if unknown:
            raise DataMissingError(
                f"{self.path}: the store has no column for {', '.join(unknown)} of {batch.kernel};"
                f" it knows {', '.join(self.dimensions)}"
            )

    def missing(
        self, cases: Iterable[KernelCase], sku: str, rounds: int = 1
    ) -> tuple[KernelCase, ...]:
        """Those of ``cases`` that no agent has soundly measured on ``sku``, in the order given.

        With more ``rounds``, those that are not measured so often: each as often as it lacks, round by round.
        """
        columns = ", ".join(f'"{d}"' for d in self.dimensions)
        rows = self._sql.execute(
            f"SELECT kernel, dtype, kv_dtype, {columns}"
            " FROM measurement m JOIN origin o ON o.id = m.origin_id"
            " WHERE source = 'agent' AND NOT contains(flags, 'throttled') AND sku = ?",
            (sku,),
        ).fetchall()
        known: Counter[KernelCase] = Counter()
        for kernel, dtype, kv_dtype, *sizes in rows:
            named = zip(self.dimensions, sizes, strict=True)
            dims = tuple(sorted((name, size) for name, size in named if size is not None))
            known[KernelCase(kernel, dtype, kv_dtype, dims)] += 1
        wanted = tuple(cases)
        return tuple(case for number in range(rounds) for case in wanted if known[case] <= number)

    def measurements(self, sku: str | None = None) -> list[Measurement]:
        """What agents measured, of one SKU or all, oldest first."""
        read = self._sql.execute(
            "SELECT m.*, o.* FROM measurement m JOIN origin o ON o.id = m.origin_id"
            " WHERE source = 'agent' AND ($sku IS NULL OR sku = $sku)"
            " ORDER BY measured_at_ns, content_hash",
            {"sku": sku},
        )
        names = [str(column[0]) for column in read.description or ()]
        records = (dict(zip(names, row, strict=True)) for row in read.fetchall())
        return [measurement_from(record, self.dimensions) for record in records]

    def kernel_data(
        self, sku: str, kernel: str, formats: tuple[str, str], sources: Sequence[str]
    ) -> KernelData:
        """Usable rows of a kernel at ``formats`` (dtype, kv dtype) from any of ``sources``.

        Those of experts tell their routing by the variant; agents time a skewed one as a kernel of its own.
        Of a case that agents measured three times or more the middle row counts, or the middle two; of one
        measured twice the calm rows, and where none is, the calmest.
        """
        dims = ", ".join(f'"{d}"' for d in self.dimensions)
        read = self._sql.execute(
            f"SELECT {dims}, coalesce(median_s, mean_s) AS seconds, std_s, source, {_VARIANT}"
            " FROM usable WHERE sku = ? AND list_contains(?, kernel) AND dtype = ? AND kv_dtype = ?"
            " AND list_contains(?, source)"
            f" AND (source <> 'agent' OR content_hash IN ({_OF_AGENTS.format(dims=dims)}))"
            " ORDER BY content_hash",
            (sku, _KERNELS.get(kernel, [kernel]), *formats, list(sources), sku),
        ).fetchnumpy()
        present = {d: read[d] for d in self.dimensions if not np.ma.getmaskarray(read[d]).all()}
        return KernelData(
            dims={d: np.ma.filled(column, 0).astype(np.int64) for d, column in present.items()},
            seconds=np.ma.filled(read["seconds"], np.nan).astype(np.float64),
            std_s=np.ma.filled(read["std_s"], np.nan).astype(np.float64),
            source=np.asarray(read["source"], dtype=np.str_),
            variant=np.asarray(read["variant"], dtype=np.str_),
        )

    def has_rows(self, sku: str, source: str, version: str) -> bool:
        """Whether anything of that version of a source is in."""
        return bool(
            self._sql.execute(
                "SELECT 1 FROM measurement m JOIN origin o ON o.id = m.origin_id"
                " WHERE m.sku = ? AND o.source = ? AND o.version = ? LIMIT 1",
                (sku, source, version),
            ).fetchall()
        )

    def has_kernel(self, sku: str, kernel: str) -> bool:
        """Whether estimators may read any row of it."""
        query = "SELECT 1 FROM usable WHERE sku = ? AND kernel = ? LIMIT 1"
        return bool(self._sql.execute(query, (sku, kernel)).fetchall())

    def origins(self, sku: str, sources: Sequence[str]) -> tuple[OriginLine, ...]:
        """Whose rows of a SKU are in, sorted."""
        rows = self._sql.execute(
            "SELECT source, package, version, file, licence, count(*), count(quarantine)"
            " FROM measurement m JOIN origin o ON o.id = m.origin_id"
            " WHERE sku = ? AND list_contains(?, source) GROUP BY ALL ORDER BY ALL",
            (sku, list(sources)),
        ).fetchall()
        return tuple(OriginLine(*row) for row in rows)

    def fingerprint(self, sku: str, sources: Sequence[str]) -> str:
        """Changes when usable rows of a SKU do."""
        row = self._sql.execute(
            "SELECT count(*), coalesce(bit_xor(content_hash), 0) FROM usable"
            " WHERE sku = ? AND list_contains(?, source)",
            (sku, list(sources)),
        ).fetchall()[0]
        return f"{row[0]:x}-{row[1]:032x}"

    def contents(self) -> tuple[StoreLine, ...]:
        """What is in, grouped and sorted."""
        rows = self._sql.execute(
            "SELECT sku, kernel, dtype, kv_dtype, source, version, coalesce(quarantine, '') AS why,"
            " count(*) FROM measurement m JOIN origin o ON o.id = m.origin_id"
            " GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        return tuple(StoreLine(*row) for row in rows)

    def rows_of(self, sku: str, kernel: str, limit: int) -> list[dict[str, object]]:
        """The first rows of a kernel by their dimensions, without what is empty in all of them."""
        dims = ", ".join(f'"{d}"' for d in self.dimensions)
        read = self._sql.execute(
            f"SELECT dtype, kv_dtype, {dims}, median_s, mean_s, std_s, num_samples, source, method,"
            " variant, flags, quarantine FROM measurement m JOIN origin o ON o.id = m.origin_id"
            " WHERE sku = ? AND kernel = ? ORDER BY ALL LIMIT ?",
            (sku, kernel, limit),
        )
        names = [str(column[0]) for column in read.description or ()]
        rows = read.fetchall()
        told = [i for i in range(len(names)) if any(row[i] not in (None, "") for row in rows)]
        return [{names[i]: row[i] for i in told} for row in rows]

    def export(self, path: Path) -> int:
        """Writes all measurements with their origins to a Parquet file; how many rows."""
        return export(self._sql, path)

    def merge(self, path: Path, skus: Mapping[str, Sku]) -> tuple[int, int]:
        """Takes in what ``export`` wrote, of any store. How many rows were new, and how many of the file's
        are kept back because the data sheet of their GPU, one of ``skus``, does not allow them.

        Raises:
            DataMissingError: the file is not such an export.
        """
        before = self._count()
        kept_back = merge(self._sql, path, skus)
        return self._count() - before, kept_back

    def collect_garbage(self) -> int:
        """Drops kept models and tables, which can be computed again; how many there were."""
        dropped = sum(self.artefacts().values())
        self._sql.execute("DELETE FROM artefact")
        self._sql.execute("CHECKPOINT")
        return dropped

    def cached(self, key: str) -> bytes | None:
        return cached(self._sql, key)

    def artefacts(self) -> dict[str, int]:
        """How many models and tables are kept."""
        return artefacts(self._sql)

    def put_cached(self, key: str, kind: str, body: bytes) -> None:
        put_cached(self._sql, key, kind, body)
