"""GEMMs of more rows than any measured: a line through the largest rows goes on.

Trees are flat outside their data, and a GEMM that quantises its input has more than one slope; over two
octaves time is nearly linear in rows of one remainder of a tile. Held-out larger rows of smaller ones chose
how much of the line to believe, and that formats without quantising keep the model alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from servecast.estimator.learners.features import quantises
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims, KernelKind

TILE_ROWS = 128
SPAN = 4  # times fewer rows than the most: where the line begins
POINTS = 9
LEAST_ROWS = 1024  # below, the line would begin among launches
LINE_SHARE = 0.75  # of the logarithm; the rest is the model's
ROUNDS = 6
LEAST_ERROR = 0.02  # small errors count alike


def lined_beyond(kind: KernelKind, most_rows: int) -> bool:
    """Whether the kernel's times beyond ``most_rows`` follow the line."""
    return quantises(kind) and most_rows >= LEAST_ROWS


def beyond(answer: Callable[[Dims], Floats], dims: Dims, most_rows: int) -> Floats:
    """Seconds [cases] of rows above ``most_rows``; ``answer`` gives those up to it."""
    spaced = np.geomspace(most_rows / SPAN, most_rows + 1 - TILE_ROWS, POINTS)
    points = np.unique(spaced.astype(np.int64) // TILE_ROWS) * TILE_ROWS
    rows = points + (dims["rows"] % TILE_ROWS).astype(np.int64)[:, None]
    fixed = {n: np.repeat(d, len(points)).astype(np.int64) for n, d in dims.items()}
    seconds = answer({**fixed, "rows": rows.ravel()}).reshape(rows.shape)
    return _line(rows.astype(np.float64), seconds, dims["rows"].astype(np.float64))


def _line(rows: Floats, seconds: Floats, wanted: Floats) -> Floats:
    """At ``wanted`` [cases], lines of least absolute relative error through [cases, points]; neither a launch
    nor a row takes negative time.
    """
    weight = np.ones_like(seconds)
    for _ in range(ROUNDS):
        ones = (weight / seconds**2).sum(axis=1)
        once = (weight * rows / seconds**2).sum(axis=1)
        twice = (weight * rows**2 / seconds**2).sum(axis=1)
        of_ones, of_rows = (weight / seconds).sum(axis=1), (weight * rows / seconds).sum(axis=1)
        inverse = 1 / (ones * twice - once**2)
        launch = (of_ones * twice - of_rows * once) * inverse
        slope = (ones * of_rows - once * of_ones) * inverse
        launch, slope = (
            np.where(launch < 0, 0.0, np.where(slope < 0, of_ones / ones, launch)),
            np.where(launch < 0, of_rows / twice, np.maximum(slope, 0.0)),
        )
        off = np.abs((launch[:, None] + slope[:, None] * rows) / seconds - 1)
        weight = 1 / np.maximum(off, LEAST_ERROR)
    return np.asarray(launch + slope * wanted, dtype=np.float64)
