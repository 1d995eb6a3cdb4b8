"""Measured kernels for the estimator's benchmarks, by GPU and source, and ways to hold some of them out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.importers.silicon import SiliconQuery, import_silicon, source_name
from servecast.estimator.importers.vidur import Skipped
from servecast.estimator.intake import FOLDERS
from servecast.estimator.learners.splits import Mask, shapes_of, unseen_shapes
from servecast.estimator.measurement import Measurement, MeasurementBatch, batches_of
from servecast.estimator.physics import COLLECTIVES, WORK, KernelKind
from servecast.estimator.predictor import Samples
from servecast.estimator.quarantine import screened
from servecast.estimator.sources import chosen_samples
from servecast.estimator.store import Store

SHARED = Path(os.environ.get("SERVECAST_SHARED", Path(__file__).parents[1] / "../shared"))
SILICON_KINDS = (
    KernelKind("linear", "bf16"),
    KernelKind("linear", "fp8"),
    KernelKind("attention_prefill", "bf16", "bf16"),
    KernelKind("attention_decode", "bf16", "bf16"),
    KernelKind("experts", "bf16"),
    KernelKind("all_reduce", "bf16"),
)
LEAST_ROWS, LEAST_SHAPES = 60, 5  # of a folder's kernel, to hold a fifth of the shapes out
FEW_ROWS = 300
LARGE_STEP = 8192


@dataclass(frozen=True, slots=True)
class Table:
    """The sound rows of a kernel on a GPU."""

    sku: str
    source: str
    kind: KernelKind
    samples: Samples

    @property
    def named(self) -> dict[str, object]:
        told = {"sku": self.sku, "source": self.source, "kernel": self.kind.kernel}
        return told | {"dtype": self.kind.dtype, "kv_dtype": self.kind.kv_dtype}


def kinds_of(kernels: Sequence[str]) -> list[KernelKind]:
    """Of those kernels in the silicon tables; of all where none is named."""
    return [kind for kind in SILICON_KINDS if not kernels or kind.kernel in kernels]


def linear_tables(sku: str) -> Iterator[Table]:
    return silicon_tables(sku, kinds_of(["linear"]))


def shape_names(samples: Samples) -> NDArray[np.str_]:
    """Of a GEMM's shape, the same on every GPU [rows]."""
    sizes = [samples.dims[name].astype(str) for name in ("in_features", "out_features")]
    return np.char.add(np.char.add(sizes[0], "x"), sizes[1])


def silicon_tables(
    sku: str, kinds: Sequence[KernelKind] = SILICON_KINDS, backend: str = "vllm"
) -> Iterator[Table]:
    source = source_name(backend)
    with Store.open(":memory:") as store:
        _add(store, import_silicon(SiliconQuery(sku, backend)))
        for kind in kinds:
            data = store.kernel_data(sku, kind.kernel, (kind.dtype, kind.kv_dtype), [source])
            if data.num_rows:
                yield Table(sku, source, kind, chosen_samples(data))


def folder_rows(source: str) -> list[Measurement]:
    """Everything in the shared folder's profiles of that source."""
    return FOLDERS[source](SHARED / "data" / "profiles" / source, Skipped())


def tables_of(rows: Iterable[Measurement]) -> Iterator[Table]:
    """Every kernel that has enough rows to learn from."""
    with Store.open(":memory:") as store:
        _add(store, batches_of(rows))
        lines = [x for x in store.contents() if not x.quarantine and x.kernel in WORK]
        for sku, source, *kind in dict.fromkeys(
            (x.sku, x.source, x.kernel, x.dtype, x.kv_dtype) for x in lines
        ):
            kernel, dtype, kv_dtype = kind
            data = store.kernel_data(sku, kernel, (dtype, kv_dtype), [source])
            samples = chosen_samples(data)
            if len(samples.seconds) >= LEAST_ROWS and shapes_of(samples).max() + 1 >= LEAST_SHAPES:
                yield Table(sku, source, KernelKind(kernel, dtype, kv_dtype), samples)


def _add(store: Store, batches: Iterable[MeasurementBatch]) -> None:
    skus = shipped_skus()
    store.add_batches(part for batch in batches for part in screened(batch, skus))


def splits(table: Table, seed: int) -> Iterator[tuple[str, Mask, Mask]]:
    """Name, rows to learn from, rows to be tested on."""
    kind, samples = table.kind, table.samples
    if kind.kernel in COLLECTIVES:
        yield from _sizes_in_turn(samples)
        return
    test = unseen_shapes(kind, samples, seed)
    yield "unseen shapes", ~test, test
    if table.source != "silicon":
        return
    if kind.kernel == "experts":
        rows = np.unique(samples.dims["rows"])
        held = np.random.default_rng(seed).permutation(rows[1:-1])[: len(rows) // 5]
        test_rows = np.isin(samples.dims["rows"], held)
        yield "unseen token counts", ~test_rows, test_rows
    if kind.kernel == "linear":
        large = samples.dims["rows"] >= LARGE_STEP
        yield f"rows >= {LARGE_STEP}", ~large, large
        few = np.zeros_like(test)
        chosen = np.random.default_rng(seed).choice(np.flatnonzero(~test), FEW_ROWS, replace=False)
        few[chosen] = True
        yield f"{FEW_ROWS} rows, unseen shapes", few, test


def _sizes_in_turn(samples: Samples) -> Iterator[tuple[str, Mask, Mask]]:
    """Each message size but the ends left out in turn: there are too few to leave out a fifth at once."""
    sizes = samples.dims["payload_bytes"]
    for size in np.unique(sizes)[1:-1]:
        yield "a size left out", sizes != size, sizes == size
