"""Metrics as JSON: what is absent is null."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from servecast.simulator.metrics.metrics import ReplicaMetrics

METRIC_NAMES = ("ttft_s", "tbt_s", "tpot_s", "e2e_s", "queue_delay_s")

Row = dict[str, Any]  # JSON


def metrics_json(metrics: ReplicaMetrics) -> Row:
    """Percentiles by metric."""
    return {name: plain(asdict(getattr(metrics, name))) for name in METRIC_NAMES}


def finite(value: float | None) -> float | None:
    """Null where there is none."""
    return value if value is not None and isfinite(value) else None


def plain(row: Row) -> Row:
    return {name: finite(value) for name, value in row.items()}
