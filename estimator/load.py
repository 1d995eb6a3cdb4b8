"""From a store to a predictor: which data, imported on first use, and fitted once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.ir import ShardedProgram
from servecast.compiler.kernels import KernelShape, kernel_shapes
from servecast.estimator.forest import KernelModel
from servecast.estimator.importers.silicon import (
    SYSTEMS,
    SiliconQuery,
    data_root,
    import_silicon,
    package_version,
)
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.store import KernelData, Store

DEFAULT_SOURCES = ("agent", "silicon", "vidur")
# Which kernel answers where a table has several, best first: the engine's own, then the library's.
VARIANTS = ("", "custom", "balanced", "nccl", "power_law_1.01", "power_law_1.2")
MIN_SAMPLES = 20  # below, a forest knows nothing that the datasheet does not


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
        notes = list(_import_once(store, sku, sources))
        samples: dict[KernelKind, Samples] = {}
        models: dict[KernelKind, KernelModel] = {}
        writes_kv = False
        for kind, shapes in _shapes_by_kind(programs).items():
            data = store.kernel_data(sku.name, kind.kernel, (kind.dtype, kind.kv_dtype), sources)
            if data.num_rows == 0:
                continue
            samples[kind] = _samples(data)
            writes_kv |= kind.kernel.startswith("attention") and "silicon" in data.source
            if _needs_model(kind, shapes, samples[kind]):
                models[kind] = fitted(store, kind, samples[kind], num_sms(sku))
        if not samples:
            notes.append(f"{sku.name}: nothing measured; every time is from the datasheet")
        return Predictor(
            sku=sku,
            num_sms=num_sms(sku),
            samples=samples,
            models=models,
            attention_writes_kv=writes_kv,
            notes=tuple(notes),
            fingerprint=f"{store.fingerprint(sku.name, sources)} {code_version()}",
        )


def _import_once(store: Store, sku: Sku, sources: Sequence[str]) -> Iterable[str]:
    if "silicon" not in sources or sku.name not in SYSTEMS:
        return
    if data_root() is None:
        yield (
            f"{sku.name}: public kernel timings are not installed (pip install 'servecast[silicon]')"
        )
        return
    version = package_version()
    if not store.has_rows(sku.name, "silicon", version):
        store.add_batches(import_silicon(SiliconQuery(sku.name)))
    yield f"{sku.name}: kernel timings of aiconfigurator-core {version}, © NVIDIA, Apache-2.0"


def _shapes_by_kind(programs: Sequence[ShardedProgram]) -> dict[KernelKind, set[KernelShape]]:
    found: dict[KernelKind, set[KernelShape]] = {}
    calls = (c for p in programs for s in p.stages for r in s.runs for c in r.calls)
    for call in calls:
        for shape in kernel_shapes(call.op):
            kind = KernelKind(shape.kernel, shape.dtype, shape.kv_dtype)
            found.setdefault(kind, set()).add(shape)
    return found


def _samples(data: KernelData) -> Samples:
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


def _needs_model(kind: KernelKind, shapes: set[KernelShape], samples: Samples) -> bool:
    """Collectives are looked up; attention is too, at head counts that were measured."""
    if kind.kernel in COLLECTIVES or len(samples.seconds) < MIN_SAMPLES:
        return False
    if kind.kernel.startswith(("attention", "latent")):
        axis = "context" if kind.kernel.endswith("_decode") else "chunk"
        return any(len(samples.axis_of(dict(s.dims), axis)) < 2 for s in shapes)
    return True


def fitted(store: Store, kind: KernelKind, samples: Samples, sms: int) -> KernelModel:
    """The kernel's model, from the store where the same code fitted the same data before."""
    digest = hashlib.sha256(f"{kind} {sms} {code_version()}".encode())
    for array in (samples.keys, samples.seconds):
        digest.update(np.ascontiguousarray(array).tobytes())
    body = store.cached(digest.hexdigest())
    if body is not None:
        return KernelModel.from_bytes(body)
    from servecast.estimator.fit import fit_model  # scikit-learn costs a second to import

    model = fit_model(kind, samples, sms)
    store.put_cached(digest.hexdigest(), "model", model.to_bytes())
    return model


def code_version() -> str:
    """Changes with any module of the estimator."""
    digest = hashlib.sha256()
    for path in sorted(files("servecast.estimator").iterdir(), key=lambda p: p.name):
        if path.name.endswith(".py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


SM_COUNTS = {
    "a100": 108,
    "a30": 56,
    "a40": 84,
    "b200": 148,
    "b300": 148,
    "gb200": 148,
    "gb300": 148,
    "h100": 132,
    "h200": 132,
    "l40s": 142,
    "rtx-4090": 128,
    "rtx-pro-6000": 188,
}


def num_sms(sku: Sku) -> int:
    """Streaming multiprocessors; an unknown GPU counts as an H100, which only shapes features."""
    matching = [count for name, count in SM_COUNTS.items() if sku.name.startswith(name)]
    return max(matching, default=SM_COUNTS["h100"])
