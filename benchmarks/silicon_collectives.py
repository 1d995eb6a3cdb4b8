"""Whose all-reduce a serving point ran: of the engine's public tables the one of the engine's own time.

Of most kernels the package has one whole table per engine, of all-reduces those of several versions, between
which they changed: on 4 H100 TensorRT-LLM 1.2's small ones take 11 us, 1.3's 4 to 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from silicon_points import Case

from servecast.estimator.importers.silicon import (
    SYSTEMS,
    SiliconQuery,
    data_root,
    import_silicon,
    package_version,
    source_name,
)
from servecast.estimator.load import DEFAULT_SOURCES
from servecast.estimator.measurement import MeasurementBatch
from servecast.estimator.store import Store

KERNEL, TABLE = "all_reduce", "custom_allreduce_perf.parquet"
BORROWED = {("sglang", "0.5.6.post2")}
"""These hold TensorRT-LLM's all-reduce under another engine's name."""
LOOKED_UP = {("trtllm", "1.2.0rc5"): (1, 2, 0)}
"""Tables that no engine older than this ran: 1.2 looks its kernel up in a list, which takes 11 us for a small
all-reduce of 4 GPUs. SOURCE: github.com/NVIDIA/TensorRT-LLM, pull requests 7870 (the list) and 5432 (until
then one kernel up to 128 tokens, as 1.3's timings of these sizes are)."""


def sources_of(case: Case) -> tuple[str, ...]:
    """Whose timings answer for a point's kernels, first what answers for its all-reduces."""
    version = table_version(case)
    common = DEFAULT_SOURCES.index("silicon")
    own = (collectives_source(case.backend, version),) if version else ()
    return (*DEFAULT_SOURCES[:common], *own, *DEFAULT_SOURCES[common:])


def table_version(case: Case) -> str:
    """The oldest table that is not older than the engine; "" where that is the newest, or the row tells no
    version.
    """
    asked, root = _release(case.version), data_root()
    if not asked or root is None:
        return ""
    folder = root / SYSTEMS[case.sku] / "comm" / case.backend
    found = {path.parent.name for path in folder.glob(f"*/{TABLE}")}
    wrong = BORROWED | {table for table, since in LOOKED_UP.items() if asked < since}
    versions = sorted((v for v in found if (case.backend, v) not in wrong), key=_order)
    fitting = [version for version in versions if _release(version) >= asked]
    return fitting[0] if fitting and fitting[0] != versions[-1] else ""


def _release(version: str) -> tuple[int, ...]:
    """The three numbers of a version, () where it has none: a nightly build's, a name."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _order(version: str) -> tuple[int, ...]:
    """Candidates and later fixes of a release count in the order of their numbers."""
    return tuple(map(int, re.findall(r"\d+", version)))


def collectives_source(backend: str, version: str) -> str:
    return f"{source_name(backend)} {version}"


def import_collectives(store: Path, case: Case) -> None:
    """Puts a point's all-reduces into the store, if `sources_of` names a table of their own."""
    version = table_version(case)
    if not version:
        return
    source = collectives_source(case.backend, version)
    with Store.open(store) as opened:
        if not opened.has_rows(case.sku, source, package_version()):
            opened.add_batches(_all_reduces(case, version, source))


def _all_reduces(case: Case, version: str, source: str) -> Iterator[MeasurementBatch]:
    for batch in import_silicon(SiliconQuery(case.sku, case.backend, version)):
        if batch.kernel == KERNEL:
            yield replace(batch, origin=replace(batch.origin, source=source))
