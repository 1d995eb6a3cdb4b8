"""Reads the kernel timings that the aiconfigurator-core package carries (© NVIDIA, Apache-2.0).

Only its parquet files are read; its code is never imported. Layout:
``systems/data/<system>/<family>/<backend>/<version>/<table>.parquet``, latencies in ms, one mean a row.
An engine's kernels are those of the newest version of it whose table is whole: at least half as large as the
largest. What is dropped or kept back is said in each rule's reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from servecast.compiler.errors import DataMissingError
from servecast.estimator.exchange import count_rows
from servecast.estimator.importers.silicon_tables import READERS
from servecast.estimator.measurement import MeasurementBatch, Origin

LICENCE = "Apache-2.0"
BACKENDS = ("vllm", "sglang", "trtllm")
SYSTEMS = {
    "a100-sxm-80gb": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}


@dataclass(frozen=True, slots=True)
class SiliconQuery:
    """``version`` None takes the newest whole table."""

    sku: str
    backend: str = "vllm"
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """Who carries such tables: a module, its distribution, the source its rows stand under in a store."""

    module: str
    distribution: str
    source: str
    remedy: str


AICONFIGURATOR = Package(
    *("aiconfigurator_core", "aiconfigurator-core", "silicon", "pip install 'servecast[silicon]'")
)
# NVIDIA's successor of it, with newer engines' tables in the same layout.
AISIMULATE = Package(
    *("aisimulate_core", "aisimulate", "aisimulate", "it comes with NVIDIA's aisimulate")
)


def source_name(backend: str, package: Package = AICONFIGURATOR) -> str:
    """Under which source a backend's kernels stand in a store; vLLM's under the package's own name."""
    return package.source if backend == "vllm" else f"{package.source}_{backend}"


def data_root(package: Package = AICONFIGURATOR) -> Path | None:
    """Where the installed package keeps its data, or None where it is not installed."""
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "systems" / "data"


def package_version(package: Package = AICONFIGURATOR) -> str:
    return installed_version(package.distribution)


def import_silicon(
    query: SiliconQuery, root: Path | None = None, package: Package = AICONFIGURATOR
) -> Iterator[MeasurementBatch]:
    """Batches of every table of one SKU and backend.

    Raises:
        DataMissingError: the package is not installed, or it does not have the SKU or the backend.
    """
    where = root or data_root(package)
    if where is None:
        raise DataMissingError(f"{package.distribution} is not installed: {package.remedy}")
    system = SYSTEMS.get(query.sku)
    if system is None or not (where / system).is_dir():
        raise DataMissingError(
            f"{package.distribution} has no data for {query.sku!r}; it has {', '.join(SYSTEMS)}"
        )
    for family, table, reader in READERS:
        folder = where / system / family / _backend_of(query, table)
        path = _table_path(folder, table, query.version)
        if path is not None:
            file = str(path.relative_to(where))
            yield from reader(query.sku, path, _origin(file, query.backend, package))


def _backend_of(query: SiliconQuery, table: str) -> str:
    """A100's vLLM GEMM table has 21 token counts, SGLang's has all 74 of the same cuBLAS kernels."""
    if table == "nccl_perf":
        return "nccl"
    if query.sku == "a100-sxm-80gb" and table == "gemm_perf" and query.backend == "vllm":
        return "sglang"
    return query.backend


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", folder.name))


def _table_path(folder: Path, table: str, version: str | None) -> Path | None:
    """Of the newest version that has the whole table, or of the one asked for.

    Some versions hold an addendum, a few models' shapes: theirs is not the table.
    """
    found = sorted(folder.glob(f"*/{table}.parquet"), key=lambda p: _version_key(p.parent))
    if version is not None:
        found = [path for path in found if path.parent.name == version]
    if len(found) < 2:
        return found[-1] if found else None
    rows = [count_rows(path) for path in found]
    whole = [path for path, count in zip(found, rows, strict=True) if 2 * count >= max(rows)]
    return whole[-1]


def _origin(file: str, backend: str, package: Package) -> Origin:
    source, version = source_name(backend, package), package_version(package)
    return Origin(source, package.distribution, version, file, LICENCE)
