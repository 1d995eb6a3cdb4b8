"""How far one measurement of a case is from the next: what a measured time may be off by."""

from __future__ import annotations

import numpy as np

from servecast.estimator.learners.uncertainty import MEASURED_HALF_WIDTH, Z_OF_90
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims

ASSUMED = MEASURED_HALF_WIDTH / Z_OF_90
LEAST_ROWS = 20  # fewer tell nothing of their scatter
# So few rows of one tensor core's tile are the same work, and so are decodes within one block of keys.
TILES = {"rows": 16, "context": 64}
APART = {"rows": 4, "context": 64}
CLOSE = 1.6  # else sizes further apart differ by their work
NORMAL_BY_MEDIAN = 1.4826  # a normal's standard deviation by its median absolute value


def noise_of(dims: Dims, seconds: Floats, of_repeats: Floats) -> float:
    """Standard deviation of the logarithm of a kernel's measured times: of the repeats of a case where their
    relative spread ``of_repeats`` is known (NaN where not), else of cases about the line between their
    neighbours, else assumed.
    """
    known = np.isfinite(of_repeats) & (of_repeats > 0)
    if np.count_nonzero(known) >= LEAST_ROWS:
        return float(np.median(of_repeats[known]))
    scatter = about_neighbours(dims, seconds)
    if len(scatter) < LEAST_ROWS:
        return ASSUMED
    return float(NORMAL_BY_MEDIAN * np.median(np.abs(scatter)))


def about_neighbours(dims: Dims, seconds: Floats) -> Floats:
    """Of cases between two of their shape, by rows or by a decode's context, both even or both odd as they
    are, for alignment counts: how far the logarithm lies from theirs, in the deviations of one measurement.
    The two are of one tile, or where too few are close. None of kernels that sweep neither.
    """
    swept = next((name for name in TILES if name in dims and "chunk" not in dims), None)
    if swept is None:
        return np.empty(0)
    size = dims[swept].astype(np.float64)
    fixed = [dims[name] for name in sorted(dims) if name != swept]
    shape = np.unique(np.stack([size % 2, *fixed], axis=1), axis=0, return_inverse=True)[1]
    shape = shape.reshape(-1)
    order = np.lexsort((size, shape))
    shape, size, log = shape[order], size[order], np.log(seconds[order])
    same = shape[2:] == shape[:-2]
    close = same & (np.ceil(size[2:] / TILES[swept]) == np.ceil(size[:-2] / TILES[swept]))
    close &= size[2:] <= size[:-2] + APART[swept]
    if np.count_nonzero(close) < LEAST_ROWS:
        close = same & (size[2:] <= CLOSE * size[:-2])
    share = (size[1:-1] - size[:-2]) / np.maximum(size[2:] - size[:-2], 1)
    off = log[1:-1] - (1 - share) * log[:-2] - share * log[2:]
    return np.asarray((off / np.sqrt(1 + (1 - share) ** 2 + share**2))[close], dtype=np.float64)
