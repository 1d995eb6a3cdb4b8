"""Puts batches of measurements into a store's tables; rows already in are passed over."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import duckdb

from servecast.estimator.exchange import ORIGIN
from servecast.estimator.measurement import MeasurementBatch, Origin


def insert(sql: duckdb.DuckDBPyConnection, batch: MeasurementBatch) -> None:
    incoming: dict[str, Any] = {**batch.dims, **batch.times_s}  # DuckDB reads arrays by name
    if batch.num_samples is not None:
        incoming["num_samples"] = batch.num_samples
    constants = _constants(batch) | {"origin_id": _origin_id(sql, batch.origin)}
    hashed = {
        "origin_text": "|".join(astuple(batch.origin)),
        "dims_text": ",".join(batch.dims),
    }
    sql.register("incoming", incoming)
    sql.execute(_insert_sql(batch, list(incoming), constants), constants | hashed)
    sql.unregister("incoming")


def _origin_id(sql: duckdb.DuckDBPyConnection, origin: Origin) -> int:
    find = f"SELECT id FROM origin WHERE ({ORIGIN}) = (?, ?, ?, ?, ?)"
    found = sql.execute(find, astuple(origin)).fetchall()
    if not found:
        sql.execute(
            f"INSERT INTO origin (id, {ORIGIN})"
            " SELECT coalesce(max(id), 0) + 1, ?, ?, ?, ?, ? FROM origin",
            astuple(origin),
        )
        found = sql.execute(find, astuple(origin)).fetchall()
    return int(found[0][0])


def _constants(batch: MeasurementBatch) -> dict[str, object]:
    what = ("kernel", "dtype", "kv_dtype", "sku", "outcome")
    how = ("method", "variant", "node", "conditions")
    rest = {"measured_at_ns": batch.measured_at_ns, "quarantine": batch.quarantine}
    return (
        {name: getattr(batch, name) for name in (*what, *how)}
        | {"flags": ",".join(batch.flags)}
        | rest
    )


def _insert_sql(batch: MeasurementBatch, columns: list[str], constants: dict[str, object]) -> str:
    """Rows already in are passed over by their hash, which the quarantine is not part of."""
    hashed = [c for c in constants if c not in ("origin_id", "quarantine")]
    parts = [f"'{c}=' || \"{c}\"" for c in columns] + [f"'{c}=' || ${c}::VARCHAR" for c in hashed]
    values = [
        f'if(isnan("{c}"), NULL, "{c}") AS "{c}"' if c in batch.times_s else f'"{c}"'
        for c in columns
    ]
    values += [f"${c} AS {c}" for c in constants]
    return (
        "INSERT INTO measurement BY NAME SELECT md5_number(concat_ws('|', $origin_text, $dims_text, "
        f"{', '.join(parts)})) AS content_hash, {', '.join(values)} FROM incoming ON CONFLICT DO NOTHING"
    )
