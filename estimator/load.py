"""From a store to predictions: which data, imported on first use, fitted once, tables built once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator import saved_tables
from servecast.estimator.build import build_tables
from servecast.estimator.draws import calibrations_of, error_draws
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES, EngineProfile
from servecast.estimator.envelope import refuse_too_large_steps
from servecast.estimator.learners.uncertainty import Calibration
from servecast.estimator.measurement import Ints
from servecast.estimator.models import code_version
from servecast.estimator.operator_times import OperatorTimes, operator_times
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor
from servecast.estimator.skewed_times import SKEWED, expected_lengths
from servecast.estimator.sources import (
    data_notes,
    import_once,
    predictor_from,
    shapes_by_kind,
    sources_for,
)
from servecast.estimator.store import Store
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.estimator.uncertain import Step, UncertainOperator, uncertain_operators

DEFAULT_SOURCES = ("agent", "silicon", "llmservingsim", "vidur")
RECENT = 32
"""Tables, of some MB each, that a loader without a store has at hand."""


class TableLoader:
    """Runtime tables by program and SKU. Nothing is imported, fitted or predicted that the store has."""

    def __init__(
        self,
        store_path: Path | None,
        sources: Sequence[str] = DEFAULT_SOURCES,
        engine: EngineProfile = ENGINE_PROFILES[DEFAULT_ENGINE],
    ) -> None:
        """``store_path`` None keeps data, models and the last tables in memory, for this loader alone."""
        self._path = store_path
        self._sources = sources_for(sources, engine.kernels)
        self._engine = engine
        self._memory: Store | None = None
        self._recent: dict[str, tuple[bytes, bytes]] = {}
        self._programs: dict[Sku, list[ShardedProgram]] = {}
        self._predictors: dict[Sku, Predictor] = {}
        self._drawing: dict[Sku, tuple[Predictor, dict[KernelKind, Calibration]]] = {}
        self._told: dict[Sku, set[str]] = {}
        self._drawn: tuple[float, ...] = ()

    def expect(self, sku: Sku, programs: Sequence[ShardedProgram]) -> None:
        """Says what will be asked for, so that one fit serves all of it."""
        known = self._programs.setdefault(sku, [])
        known.extend(p for p in programs if p not in known)

    def expect_lengths(self, prompt_tokens: Ints, output_tokens: Ints) -> None:
        """Says how the requests' lengths [requests] differ: batches of unequal contexts decode longer, where
        agents measured by how much.
        """
        self._drawn = expected_lengths(prompt_tokens, output_tokens)

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        """
        Raises:
            DataMissingError: the store cannot be opened, or the model is too far from what was measured.
        """
        with self._store() as store:
            import_once(store, sku, self._sources)
            if store.has_kernel(sku.name, SKEWED):  # else all lengths make the same tables
                bounds = replace(bounds, drawn=self._drawn)
            data = store.fingerprint(sku.name, self._sources)
            query = repr((sharded, sku, bounds, self._engine, self._sources, data, code_version()))
            key = hashlib.sha256(query.encode()).hexdigest()
            kept = self._kept(store, key)
            if kept is None:
                predictor = self._predictor(store, sharded, sku)
                large = refuse_too_large_steps(predictor, sharded, bounds)
                built = build_tables(sharded, sku, bounds, predictor, self._engine)
                notes = "\n".join((*predictor.notes, *large)).encode()
                kept = saved_tables.to_bytes(built), notes
                self._keep(store, key, kept)
        body, told = kept
        self._told.setdefault(sku, set()).update(told.decode().splitlines())
        return saved_tables.from_bytes(body)

    def operators(
        self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds
    ) -> list[OperatorTimes]:
        """What of the tables is each operator's.

        Raises:
            DataMissingError: as ``tables``.
        """
        with self._store() as store:
            import_once(store, sku, self._sources)
            predictor = self._predictor(store, sharded, sku)
        return operator_times(sharded, sku, bounds, predictor, self._engine)

    def drawn_tables(
        self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds, draw: int
    ) -> RuntimeTables:
        """The tables as they may really be: ``draw`` seeds one error for each kernel and range of times, the
        same for all programs on the SKU.

        Simulating a few draws shows how sure a result is. The first draw calibrates the kernels, which
        takes a handful of fits each and is kept in the store.

        Raises:
            DataMissingError: as ``tables``.
        """
        predictor, calibrations = self._calibrated(sharded, sku)
        errors = error_draws(predictor.kinds, calibrations, predictor.noise, draw)
        perturbed = replace(predictor, errors=errors)
        bounds = replace(bounds, drawn=self._drawn)
        return build_tables(sharded, sku, bounds, perturbed, self._engine)

    def uncertain_operators(
        self, sharded: ShardedProgram, sku: Sku, step: Step
    ) -> list[UncertainOperator]:
        """The step's kernels, first what adds most to the uncertainty of its time. Calibrates as a draw does.

        Raises:
            DataMissingError: as ``tables``.
        """
        predictor, calibrations = self._calibrated(sharded, sku)
        return uncertain_operators(sharded, predictor, calibrations, step)

    def notes(self, sku: Sku) -> tuple[str, ...]:
        """What a reader of the answer should know: whose data, and what of the tables asked for so far
        lies outside it.
        """
        with self._store() as store:
            told = data_notes(store, sku, self._sources)
        return (*told, *sorted(self._told.get(sku, ())))

    def provenance(self, sku: Sku) -> dict[str, object]:
        """JSON: the data's origins with their rows, and the engine profile with its host terms."""
        with self._store() as store:
            import_once(store, sku, self._sources)  # a fresh store tells of the same data later
            origins = store.origins(sku.name, self._sources)
        return {"data": [asdict(line) for line in origins], "engine": asdict(self._engine)}

    def _kept(self, store: Store, key: str) -> tuple[bytes, bytes] | None:
        """Tables and notes."""
        if self._path is None:
            return self._recent.get(key)
        body, told = store.cached(key), store.cached(f"{key} notes")
        return None if body is None or told is None else (body, told)

    def _keep(self, store: Store, key: str, kept: tuple[bytes, bytes]) -> None:
        if self._path is None:
            self._recent[key] = kept
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
            return
        body, told = kept
        store.put_cached(key, "tables", body)
        store.put_cached(f"{key} notes", "notes", told)

    def _calibrated(
        self, sharded: ShardedProgram, sku: Sku
    ) -> tuple[Predictor, dict[KernelKind, Calibration]]:
        found = self._drawing.get(sku)
        if found is None or not _covers(found[0], [sharded]):
            with self._store() as store:
                import_once(store, sku, self._sources)
                predictor = self._predictor(store, sharded, sku)
                found = predictor, calibrations_of(store, predictor)
            self._drawing[sku] = found
        return found

    def _predictor(self, store: Store, sharded: ShardedProgram, sku: Sku) -> Predictor:
        self.expect(sku, [sharded])
        found = self._predictors.get(sku)
        if found is None or not _covers(found, self._programs[sku]):
            found = predictor_from(store, sku, self._programs[sku], self._sources)
            self._predictors[sku] = found
        return found

    @contextmanager
    def _store(self) -> Iterator[Store]:
        if self._path is not None:
            with Store.open(self._path) as store:
                yield store
            return
        if self._memory is None:
            self._memory = Store.open(":memory:")
        yield self._memory


def _covers(predictor: Predictor, programs: Sequence[ShardedProgram]) -> bool:
    return set(shapes_by_kind(programs)) <= set(predictor.kinds)


def load_predictor(
    store_path: Path | None,
    sku: Sku,
    programs: Sequence[ShardedProgram],
    sources: Sequence[str] = DEFAULT_SOURCES,
) -> Predictor:
    """What ``programs`` need to be predicted on ``sku``. Public data is imported on first use.

    Raises:
        DataMissingError: the store cannot be opened.
    """
    with Store.open(store_path or Path(":memory:")) as store:
        import_once(store, sku, sources)
        return predictor_from(store, sku, programs, sources)
