"""Times between measured row counts of a shape: the model's, corrected by what it misses at both ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims, KernelKind

# Of a plain line between the neighbours in the logarithm of experts' times, which grow steadily as more of
# them are touched: best where token counts of five GPUs were left out. GEMMs go in steps of tiles.
LINE_SHARE = {"experts": 2 / 3}


def anchored(
    kind: KernelKind,
    answer: Callable[[Dims], Floats],
    cases: tuple[Dims, Floats],
    samples: tuple[Dims, Floats],
) -> Floats:
    """Seconds of ``cases`` (dimensions, what the model says) from ``samples`` (dimensions, seconds), where
    ``answer`` is the model; as it says outside the measured rows of a shape.
    """
    dims, seconds = cases
    sampled, times = samples
    fixed = [name for name in sampled if name != "rows"]
    shape = np.unique(np.stack([dims[n] for n in fixed]), axis=1, return_inverse=True)[1].reshape(
        -1
    )
    found, share = seconds.copy(), LINE_SHARE.get(kind.kernel, 0.0)
    for number in range(int(shape.max()) + 1):
        asked = np.flatnonzero(shape == number)
        same = np.logical_and.reduce([sampled[n] == dims[n][asked[0]] for n in fixed])
        near = np.flatnonzero(same)
        if len(near) < 2:
            continue
        near = near[np.argsort(sampled["rows"][near])]
        points = {name: column[near] for name, column in sampled.items()}
        measured, rows = times[near], dims["rows"][asked]
        missed = np.interp(np.log(rows), np.log(points["rows"]), np.log(measured / answer(points)))
        line = np.log(np.interp(rows, points["rows"], measured))
        between = (1 - share) * (np.log(seconds[asked]) + missed) + share * line
        inside = (rows >= points["rows"][0]) & (rows <= points["rows"][-1])
        found[asked] = np.where(inside, np.exp(between), seconds[asked])
    return found
