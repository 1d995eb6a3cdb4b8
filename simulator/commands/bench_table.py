"""The standing benchmark's results: which configuration is best for each model and workload, and what it
costs to serve one workload with the best configuration of another. Pure: cells in, JSON out.

SOURCE: the two results are Vidur's (Agrawal et al., MLSys 2024, figure 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1

Row = dict[str, Any]  # JSON

IDENTITY = (
    *("sku", "precision", "tp", "pp", "ep", "dp"),
    *("max_num_seqs", "max_batched_tokens", "policy", "router", "mode"),
)
"""What tells one configuration of a search from another."""

FIGURES = ("qps_per_usd_hour", "usd_per_million_output_tokens", "qps_per_replica")


@dataclass(frozen=True, slots=True)
class Cell:
    """One search: every configuration of ``model`` that serves ``workload``, the best first."""

    model: str
    workload: str
    ranked: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        return self.ranked[0] if self.ranked else None

    def best_of(self, sku: str) -> Row | None:
        return next((row for row in self.ranked if row["sku"] == sku), None)

    def same_as(self, configuration: Mapping[str, Any]) -> Row | None:
        """This cell's row of a configuration of another cell; None where it cannot serve."""
        asked = identity(configuration)
        return next((row for row in self.ranked if identity(row) == asked), None)


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in IDENTITY)


def kept(ranked: Sequence[Row]) -> tuple[Row, ...]:
    """What a cell keeps of a search's rows."""
    names = [*IDENTITY, *FIGURES]
    return tuple({name: row[name] for name in names if name in row} for row in ranked)


def misconfiguration(cells: Sequence[Cell]) -> list[list[float | None]]:
    """[chosen for, served]: what a request costs under the best configuration for one workload of another,
    over what it costs under that workload's own. 1 on the diagonal; None where it cannot serve at all.

    ``cells`` are of one model.
    """
    return [[_cost(chosen, served) for served in cells] for chosen in cells]


def _cost(chosen: Cell, served: Cell) -> float | None:
    if chosen.best is None or served.best is None:
        return None
    row = served.same_as(chosen.best)
    if row is None:
        return None
    return float(served.best["qps_per_usd_hour"] / row["qps_per_usd_hour"])


def summary(cells: Sequence[Cell], skus: Sequence[str]) -> Row:
    """The JSON object that ``servecast bench`` prints."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    of_model = {model: [cell for cell in cells if cell.model == model] for model in models}
    matrices = {
        model: {
            "workloads": [cell.workload for cell in own],
            "cost": misconfiguration(own),
        }
        for model, own in of_model.items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "cells": [_cell_json(cell, skus) for cell in cells],
        "misconfiguration": matrices,
        "findings": {
            "best_differs": {model: _num_best(own) for model, own in of_model.items()},
            "costliest": _costliest(matrices),
        },
    }


def _cell_json(cell: Cell, skus: Sequence[str]) -> Row:
    by_sku = {sku: cell.best_of(sku) for sku in skus}
    return {
        "model": cell.model,
        "workload": cell.workload,
        "configurations": len(cell.ranked),
        "best": cell.best,
        "qps_per_usd_hour": {
            sku: None if row is None else row["qps_per_usd_hour"] for sku, row in by_sku.items()
        },
    }


def _num_best(cells: Sequence[Cell]) -> int:
    """How many different configurations are the best for some workload."""
    return len({identity(cell.best) for cell in cells if cell.best is not None})


def _costliest(matrices: Mapping[str, Row]) -> Row | None:
    """The largest finite entry of all matrices, and where it stands."""
    entries = [
        {"model": model, "chosen_for": chosen, "served": served, "cost": cost}
        for model, matrix in matrices.items()
        for chosen, costs in zip(matrix["workloads"], matrix["cost"], strict=True)
        for served, cost in zip(matrix["workloads"], costs, strict=True)
        if cost is not None
    ]
    return max(entries, key=lambda entry: entry["cost"], default=None)
