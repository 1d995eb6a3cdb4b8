"""How many requests ran and waited while a run was recorded, against the simulation at the same moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from servecast.simulator.engine.records import Records
from servecast.simulator.measured.run import Curve
from servecast.simulator.traffic.workload import Floats

Row = dict[str, Any]  # JSON


def compare_curves(curves: Mapping[str, Curve], records: Records) -> list[Row]:
    """A row for each curve recorded: means and peaks of both sides, and the mean distance between them."""
    rows = []
    for name, curve in curves.items():
        predicted = _requests_at(name, records, curve.at_s)
        rows.append(
            {
                "curve": name,
                "samples": len(curve.at_s),
                "measured_mean": float(curve.requests.mean()),
                "predicted_mean": float(predicted.mean()),
                "measured_peak": float(curve.requests.max()),
                "predicted_peak": float(predicted.max()),
                "mean_distance": float(np.abs(predicted - curve.requests).mean()),
            }
        )
    return rows


def _requests_at(name: str, records: Records, at_s: Floats) -> Floats:
    """Simulated requests that run, or that wait for their first step."""
    scheduled = _counted(records.scheduled_s, at_s)
    if name == "running":
        return scheduled - _counted(records.finish_s, at_s)
    return _counted(records.arrival_s, at_s) - scheduled


def _counted(times_s: Floats, at_s: Floats) -> Floats:
    """How many of them, but those that never came, are not after each of ``at_s``."""
    came = np.sort(times_s[np.isfinite(times_s)])
    return np.searchsorted(came, at_s, side="right").astype(np.float64)
