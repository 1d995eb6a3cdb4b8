"""Which data answers for a GPU's kernels, and the predictor made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape, kernel_shapes
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.envelope import refuse_what_is_too_far
from servecast.estimator.importers.silicon import (
    BACKENDS,
    SYSTEMS,
    SiliconQuery,
    data_root,
    import_silicon,
    package_version,
    source_name,
)
from servecast.estimator.learners.forest import KernelModel
from servecast.estimator.mixed_times import mixed_kind
from servecast.estimator.models import Fitting, fitted, needs_model, num_sms_of
from servecast.estimator.noise import noise_of
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.quarantine import screened
from servecast.estimator.skewed_times import skewed_kind
from servecast.estimator.store import Store
from servecast.estimator.stored import KernelData

FEW_ROWS = 2000  # up to so many, a model may start from what it is on other GPUs
LENDERS_ROWS = 5000
MOST_LENDERS = 4  # each adds its trees to every prediction

# Which kernel answers where a table has several, best first: the engine's own, then the library's. Of
# experts' routings the mildest power law, as the tables' publisher takes it: the balanced rows deal tokens
# to all experts in turn, so that 32 of them read twice the weights that routed ones read.
VARIANTS = ("", "custom", "power_law_1.01", "power_law_1.2", "balanced", "nccl")


# Tensor cores multiply fp16 as fast as bf16; block scales cost fp8 little, and the public rows of
# fp8_block are kept from estimators.
STANDS_IN = {"fp16": "bf16", "fp8_block": "fp8"}


def predictor_from(
    store: Store, sku: Sku, programs: Sequence[ShardedProgram], sources: Sequence[str]
) -> Predictor:
    """From what the store has, fitting what it does not."""
    samples: dict[KernelKind, Samples] = {}
    models: dict[KernelKind, KernelModel] = {}
    noise: dict[KernelKind, float] = {}
    writes_kv = False
    wanted = shapes_by_kind(programs)
    stand_ins = []
    for kind, shapes in wanted.items():
        data, formats = _best_source(store, sku, kind, sources)
        if data is None:
            continue
        if formats != (kind.dtype, kind.kv_dtype):
            asked, given = (" ".join(f).strip() for f in ((kind.dtype, kind.kv_dtype), formats))
            stand_ins.append(f"{sku.name}: {kind.kernel} {asked}: measured as {given}")
        samples[kind] = chosen_samples(data)
        of_repeats = data.std_s / data.seconds
        noise[kind] = noise_of(samples[kind].dims, samples[kind].seconds, of_repeats)
        writes_kv |= kind.kernel.startswith("attention") and _from_vllm(data)
        if kind.kernel == "attention_decode":
            samples |= _unlike_samples(store, sku, kind, data)
        if needs_model(kind, shapes, samples[kind]):
            models[kind] = fitted(store, fitting_of(store, sku.name, kind, samples[kind], sku))
    found = Predictor(
        sku=sku,
        num_sms=num_sms_of(sku.name),
        kinds=tuple(wanted),
        samples=samples,
        models=models,
        attention_writes_kv=writes_kv,
        noise=noise,
    )
    every = sorted(shape for group in wanted.values() for shape in group)
    far = refuse_what_is_too_far(found, programs, every)
    return replace(found, notes=(*stand_ins, *far))


def fitting_of(
    store: Store, sku: str, kind: KernelKind, samples: Samples, datasheet: Sku | None
) -> Fitting:
    """What a kernel's model is made of: its samples, and where they are few those of other GPUs."""
    few = len(samples.seconds) <= FEW_ROWS
    others = _lenders(store, sku, kind, set(samples.dims)) if few else ()
    return Fitting(kind, samples, num_sms_of(sku), others, datasheet)


def _lenders(store: Store, sku: str, kind: KernelKind, dims: set[str]) -> tuple[Fitting, ...]:
    """The same kernel on other GPUs, of each the source with most rows, if many; largest first."""
    most: dict[str, tuple[int, str]] = {}
    for line in store.contents():
        same = KernelKind(line.kernel, line.dtype, line.kv_dtype) == kind
        if same and line.sku != sku and not line.quarantine and line.rows >= LENDERS_ROWS:
            most[line.sku] = max((line.rows, line.source), most.get(line.sku, (0, "")))
    found = []
    for other, (_, source) in sorted(most.items(), key=lambda x: (-x[1][0], x[0]))[:MOST_LENDERS]:
        data = store.kernel_data(other, kind.kernel, (kind.dtype, kind.kv_dtype), [source])
        lent = chosen_samples(data)
        if set(lent.dims) == dims:
            found.append(Fitting(kind, lent, num_sms_of(other)))
    return tuple(found)


def _unlike_samples(
    store: Store, sku: Sku, decode: KernelKind, data: KernelData
) -> dict[KernelKind, Samples]:
    """Launches of decodes beside a prefill, and of decodes of unequal lengths, where whoever timed the
    decodes timed those, too.
    """
    found = {}
    imported = data.source[data.source != "agent"]
    source = str(imported[0]) if len(imported) else "agent"
    for kind in (mixed_kind(decode), skewed_kind(decode)):
        rows = store.kernel_data(sku.name, kind.kernel, (kind.dtype, kind.kv_dtype), [source])
        if rows.num_rows:
            found[kind] = chosen_samples(rows)
    return found


def _from_vllm(data: KernelData) -> bool:
    """These sources time the engine's attention layer, which stores keys and values before it attends."""
    layers = (*map(source_name, BACKENDS), "llmservingsim")
    return bool(np.isin(layers, data.source).any())


def _best_source(
    store: Store, sku: Sku, kind: KernelKind, sources: Sequence[str]
) -> tuple[KernelData | None, tuple[str, str]]:
    """Rows of the kernel's own formats, or of those that stand in for them; and which formats."""
    for formats in _formats(kind):
        data = _rows_of_first_source(store, sku, kind.kernel, formats, sources)
        if data is not None:
            return data, formats
    return None, (kind.dtype, kind.kv_dtype)


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


def sources_for(sources: Sequence[str], kernels: str) -> tuple[str, ...]:
    """The sources with an engine's own public tables before the common ones."""
    own = source_name(kernels)
    named = (name for s in sources for name in ((own, s) if s == "silicon" else (s,)))
    return tuple(dict.fromkeys(named))


def import_once(store: Store, sku: Sku, sources: Sequence[str]) -> None:
    """Public timings of the SKU, where their package is installed and the store lacks them."""
    if sku.name not in SYSTEMS or data_root() is None:
        return
    for backend in (b for b in BACKENDS if source_name(b) in sources):
        if not store.has_rows(sku.name, source_name(backend), package_version()):
            rows = import_silicon(SiliconQuery(sku.name, backend))
            store.add_batches(part for batch in rows for part in screened(batch, {sku.name: sku}))


def data_notes(store: Store, sku: Sku, sources: Sequence[str]) -> tuple[str, ...]:
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
