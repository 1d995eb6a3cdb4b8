"""Which measured rows are kept from a learner to see how it does: whole shapes, never single rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.measurement import Ints
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Samples

HELD_OUT = 0.2
SWEPT = frozenset({"rows", "batch", "context", "chunk", "payload_bytes"})
Mask = NDArray[np.bool_]


def shapes_of(samples: Samples) -> Ints:
    """The number of each row's shape, its dimensions but the swept ones [rows]."""
    fixed = [samples.dims[name] for name in sorted(samples.dims) if name not in SWEPT]
    if not fixed:
        return np.zeros(len(samples.seconds), dtype=np.int64)
    _, number = np.unique(np.stack(fixed, axis=1), axis=0, return_inverse=True)
    return number.reshape(-1).astype(np.int64)


def unseen_shapes(kind: KernelKind, samples: Samples, seed: int) -> Mask:
    """A fifth of the shapes, chosen by ``seed``; of collectives, which have few, a fifth of the sizes."""
    group = samples.dims["payload_bytes"] if kind.kernel in COLLECTIVES else shapes_of(samples)
    groups = np.unique(group)
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(groups)[: max(1, round(HELD_OUT * len(groups)))]
    return np.isin(group, held_out)


def folds_of(samples: Samples, count: int, seed: int) -> Ints:
    """A fold [rows] for each shape, even in numbers of shapes; for each row where shapes are too few."""
    shape = shapes_of(samples)
    if shape.max() + 1 < count:
        shape = np.arange(len(shape))
    rng = np.random.default_rng(seed)
    return np.asarray(rng.permutation(int(shape.max()) + 1)[shape] % count, dtype=np.int64)


def some_shapes(samples: Samples, max_rows: int, seed: int) -> Mask:
    """All rows of as many shapes as stay within ``max_rows``, two at least."""
    shape = shapes_of(samples)
    counts = np.bincount(shape)
    order = np.random.default_rng(seed).permutation(len(counts))
    fits = np.cumsum(counts[order]) <= max_rows
    return np.isin(shape, order[: max(2, int(np.count_nonzero(fits)))])
