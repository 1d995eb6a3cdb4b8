"""Reads a Parquet table of a package: a missing column or a wrong cell is named, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from servecast.estimator.exchange import read_parquet
from servecast.estimator.parquet_cells import Cells, positive_time, text, time, whole

Table = dict[str, NDArray[Any]]

OF = "a table of aiconfigurator-core or aisimulate"
OPTIONAL = {"window_size"}  # old tables know no windows
MAY_BE_ZERO = {"window_size", "step"}
TEXTS = {"distribution", "kernel_source", "op_name", "phase"}


def read_table(path: Path, columns: tuple[str, ...], **equal: object) -> Table:
    """Raises: DataMissingError: a column is missing, or a cell of it is wrong."""
    cells = [_cells(name) for name in columns if name not in OPTIONAL]
    return read_parquet(path, columns, equal, cells, OF)


def read_scales(path: Path) -> Table:
    """What finding an input's scale takes, at times too little to be measured. Raises as ``read_table``."""
    cells = [whole("m"), whole("k"), time("latency", "ms"), text("quant_dtype")]
    return read_parquet(path, ("m", "k", "latency"), {"quant_dtype": "fp8"}, cells, OF)


def _cells(name: str) -> Cells:
    if name == "latency":
        return positive_time(name, "ms")
    if name in TEXTS or name.endswith("_dtype"):
        return text(name)
    return whole(name, int(name not in MAY_BE_ZERO))
