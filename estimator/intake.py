"""Takes measurements of others into a store, screened, all of one command or none of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.importers.llmservingsim_skew import import_profiles
from servecast.estimator.importers.silicon import (
    AICONFIGURATOR,
    AISIMULATE,
    Package,
    SiliconQuery,
    import_silicon,
)
from servecast.estimator.importers.vidur import Skipped, import_vidur
from servecast.estimator.measurement import MeasurementBatch, batches_of
from servecast.estimator.quarantine import screened
from servecast.estimator.store import Store

FOLDERS = {"vidur": import_vidur, "llmservingsim": import_profiles}
PACKAGES: dict[str, Package] = {p.source: p for p in (AICONFIGURATOR, AISIMULATE)}


@dataclass(frozen=True, slots=True)
class Intake:
    """What came of an import: rows that are new, rows that no estimator will read, lines not taken."""

    of: str
    new_rows: int
    kept_back: dict[str, int]
    files: tuple[str, ...]
    not_taken: dict[str, int] = field(default_factory=dict)
    has_datasheet: bool = True


def import_folder(store: Store, source: str, folder: Path) -> Intake:
    """Raises: DataMissingError: a file is not what the source's files are; then nothing is taken."""
    skipped, reader = Skipped(), FOLDERS[source]
    kept = _screened(batches_of(reader(folder, skipped)))
    return _taken(store, str(folder), kept, not_taken=dict(sorted(skipped.reasons.items())))


def import_package(store: Store, source: str, query: SiliconQuery) -> Intake:
    """Raises: DataMissingError: the package is not installed or has no such GPU or backend."""
    kept = _screened(import_silicon(query, package=PACKAGES[source]))
    return _taken(store, query.sku, kept, has_datasheet=query.sku in shipped_skus())


def _screened(batches: Iterable[MeasurementBatch]) -> list[MeasurementBatch]:
    skus = shipped_skus()
    return [part for batch in batches for part in screened(batch, skus)]


def _taken(
    store: Store,
    of: str,
    kept: list[MeasurementBatch],
    *,
    not_taken: dict[str, int] | None = None,
    has_datasheet: bool = True,
) -> Intake:
    back: dict[str, int] = {}
    for batch in kept:
        if batch.quarantine and batch.num_rows:
            back[batch.quarantine] = back.get(batch.quarantine, 0) + batch.num_rows
    files = tuple(sorted({batch.origin.file for batch in kept}))
    return Intake(of, store.add_batches(kept), back, files, not_taken or {}, has_datasheet)
