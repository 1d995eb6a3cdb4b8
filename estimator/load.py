"""From a store to predictions: which data, imported on first use, fitted once, tables built once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.ir import ShardedProgram
from servecast.compiler.kernels import KernelShape, kernel_shapes
from servecast.estimator import saved_tables
from servecast.estimator.build import build_tables
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES, EngineProfile
from servecast.estimator.forest import KernelModel
from servecast.estimator.importers.silicon import (
    SYSTEMS,
    SiliconQuery,
    data_root,
    import_silicon,
    package_version,
)
from servecast.estimator.models import code_version, fitted, needs_model, num_sms_of
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.quarantine import screened
from servecast.estimator.store import Store
from servecast.estimator.stored import KernelData
from servecast.estimator.tables import RuntimeTables, TableBounds

DEFAULT_SOURCES = ("agent", "silicon", "llmservingsim", "vidur")
# Which kernel answers where a table has several, best first: the engine's own, then the library's.
VARIANTS = ("", "custom", "balanced", "nccl", "power_law_1.01", "power_law_1.2")


# Tensor cores multiply fp16 as fast as bf16; block scales cost fp8 little, and the public rows of
# fp8_block are kept from estimators.
STANDS_IN = {"fp16": "bf16", "fp8_block": "fp8"}


class TableLoader:
    """Runtime tables by program and SKU. Nothing is imported, fitted or predicted that the store has."""

    def __init__(
        self,
        store_path: Path | None,
        sources: Sequence[str] = DEFAULT_SOURCES,
        engine: EngineProfile = ENGINE_PROFILES[DEFAULT_ENGINE],
    ) -> None:
        """``store_path`` None keeps everything in memory, for this loader alone."""
        self._path = store_path
        self._sources = tuple(sources)
        self._engine = engine
        self._memory: Store | None = None
        self._programs: dict[Sku, list[ShardedProgram]] = {}
        self._predictors: dict[Sku, Predictor] = {}

    def expect(self, sku: Sku, programs: Sequence[ShardedProgram]) -> None:
        """Says what will be asked for, so that one fit serves all of it."""
        known = self._programs.setdefault(sku, [])
        known.extend(p for p in programs if p not in known)

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        """
        Raises:
            DataMissingError: the store cannot be opened.
        """
        with self._store() as store:
            import_once(store, sku, self._sources)
            data = store.fingerprint(sku.name, self._sources)
            query = repr((sharded, sku, bounds, self._engine, self._sources, data, code_version()))
            key = hashlib.sha256(query.encode()).hexdigest()
            body = store.cached(key)
            if body is None:
                predictor = self._predictor(store, sharded, sku)
                built = build_tables(sharded, sku, bounds, predictor, self._engine)
                body = saved_tables.to_bytes(built)
                store.put_cached(key, "tables", body)
        return saved_tables.from_bytes(body)

    def notes(self, sku: Sku) -> tuple[str, ...]:
        """What a reader of the answer should know of the data."""
        with self._store() as store:
            return _notes(store, sku, self._sources)

    def provenance(self, sku: Sku) -> dict[str, object]:
        """JSON: the data's origins with their rows, and the engine profile with its host terms."""
        with self._store() as store:
            origins = store.origins(sku.name, self._sources)
        return {"data": [asdict(line) for line in origins], "engine": asdict(self._engine)}

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


def predictor_from(
    store: Store, sku: Sku, programs: Sequence[ShardedProgram], sources: Sequence[str]
) -> Predictor:
    """From what the store has, fitting what it does not."""
    samples: dict[KernelKind, Samples] = {}
    models: dict[KernelKind, KernelModel] = {}
    writes_kv = False
    wanted = shapes_by_kind(programs)
    for kind, shapes in wanted.items():
        data = _best_source(store, sku, kind, sources)
        if data is None:
            continue
        samples[kind] = chosen_samples(data)
        writes_kv |= kind.kernel.startswith("attention") and _from_vllm(data)
        if needs_model(kind, shapes, samples[kind]):
            models[kind] = fitted(store, kind, samples[kind], num_sms_of(sku.name))
    return Predictor(
        sku=sku,
        num_sms=num_sms_of(sku.name),
        kinds=tuple(wanted),
        samples=samples,
        models=models,
        attention_writes_kv=writes_kv,
        notes=_notes(store, sku, sources),
    )


def _from_vllm(data: KernelData) -> bool:
    """These sources time vLLM's attention layer, which stores keys and values before it attends."""
    return bool(np.isin(("silicon", "llmservingsim"), data.source).any())


def _best_source(
    store: Store, sku: Sku, kind: KernelKind, sources: Sequence[str]
) -> KernelData | None:
    """Rows of the kernel's own formats, or of those that stand in for them."""
    for formats in _formats(kind):
        data = _rows_of_first_source(store, sku, kind.kernel, formats, sources)
        if data is not None:
            return data
    return None


def _formats(kind: KernelKind) -> Iterator[tuple[str, str]]:
    own = (kind.dtype, kind.kv_dtype)
    dtype, kv_dtype = (STANDS_IN.get(name, name) for name in own)
    yield from dict.fromkeys([own, (dtype, kv_dtype)])


def _rows_of_first_source(
    store: Store, sku: Sku, kernel: str, formats: tuple[str, str], sources: Sequence[str]
) -> KernelData | None:
    """Our agents' rows, and of imported ones those of the first source that has any: engines differ in
    their kernels, and a mixture is the time of none.
    """
    for source in (s for s in sources if s != "agent"):
        picked = ["agent", source] if "agent" in sources else [source]
        data = store.kernel_data(sku.name, kernel, formats, picked)
        if source in data.source:
            return data
    data = store.kernel_data(sku.name, kernel, formats, ["agent"])
    return data if "agent" in sources and data.num_rows else None


def import_once(store: Store, sku: Sku, sources: Sequence[str]) -> None:
    """Public timings of the SKU, where their package is installed and the store lacks them."""
    if "silicon" not in sources or sku.name not in SYSTEMS or data_root() is None:
        return
    if not store.has_rows(sku.name, "silicon", package_version()):
        rows = import_silicon(SiliconQuery(sku.name))
        store.add_batches(part for batch in rows for part in screened(batch, {sku.name: sku}))


def _notes(store: Store, sku: Sku, sources: Sequence[str]) -> tuple[str, ...]:
    lines = store.origins(sku.name, sources)
    if lines:
        packages = sorted({f"{o.package} {o.version} ({o.licence})" for o in lines if o.licence})
        return tuple(f"{sku.name}: kernel timings from {package}" for package in packages)
    missing = "silicon" in sources and sku.name in SYSTEMS and data_root() is None
    remedy = "; pip install 'servecast[silicon]' brings measured ones" if missing else ""
    return (f"{sku.name}: nothing measured, every time is from the datasheet{remedy}",)


def shapes_by_kind(programs: Sequence[ShardedProgram]) -> dict[KernelKind, set[KernelShape]]:
    found: dict[KernelKind, set[KernelShape]] = {}
    calls = (c for p in programs for s in p.stages for r in s.runs for c in r.calls)
    for call in calls:
        for shape in kernel_shapes(call.op):
            kind = KernelKind(shape.kernel, shape.dtype, shape.kv_dtype)
            found.setdefault(kind, set()).add(shape)
    return found


def chosen_samples(data: KernelData) -> Samples:
    """One variant's rows; of later variants only cases larger than all before (NCCL beyond custom)."""
    names = [v for v in VARIANTS if v in data.variant]
    rows = data.variant == (names[0] if names else data.variant[0])
    if "payload_bytes" in data.dims:
        for name in names[1:]:
            limit = data.dims["payload_bytes"][rows].max()
            rows |= (data.variant == name) & (data.dims["payload_bytes"] > limit)
    return samples_of(
        {name: column[rows] for name, column in data.dims.items()},
        data.seconds[rows],
        data.source[rows] == "agent",
    )
