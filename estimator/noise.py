"""How far one measurement of a case is from the next: what a measured time may be off by."""

from __future__ import annotations

import numpy as np

from servecast.estimator.learners.uncertainty import MEASURED_HALF_WIDTH, Z_OF_90
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims

ASSUMED = MEASURED_HALF_WIDTH / Z_OF_90
LEAST_ROWS = 20  # fewer tell nothing of their scatter
TILE_ROWS, APART = 16, 4  # so few rows of one tensor core's tile are the same work
CLOSE = 1.6  # else row counts further apart differ by their work
NORMAL_BY_MEDIAN = 1.4826  # a normal's standard deviation by its median absolute value


def noise_of(dims: Dims, seconds: Floats, of_repeats: Floats) -> float:
    """Standard deviation of the logarithm of a kernel's measured times: of the repeats of a case where their
    relative spread ``of_repeats`` is known (NaN where not), else of rows about the line between their
    neighbours, else assumed.
    """
    known = np.isfinite(of_repeats) & (of_repeats > 0)
    if np.count_nonzero(known) >= LEAST_ROWS:
        return float(np.median(of_repeats[known]))
    scatter = about_neighbours(dims, seconds) if "rows" in dims else np.empty(0)
    if len(scatter) < LEAST_ROWS:
        return ASSUMED
    return float(NORMAL_BY_MEDIAN * np.median(np.abs(scatter)))


def about_neighbours(dims: Dims, seconds: Floats) -> Floats:
    """Of rows between two of their shape, both even or both odd as they are, for alignment counts: how far
    the logarithm lies from theirs, in the deviations of one measurement. The two are of one tile, or where
    too few are close.
    """
    rows = dims["rows"].astype(np.float64)
    fixed = [dims[name] for name in sorted(dims) if name != "rows"]
    shape = np.unique(np.stack([rows % 2, *fixed], axis=1), axis=0, return_inverse=True)[1]
    shape = shape.reshape(-1)
    order = np.lexsort((rows, shape))
    shape, rows, log = shape[order], rows[order], np.log(seconds[order])
    same = shape[2:] == shape[:-2]
    close = same & (np.ceil(rows[2:] / TILE_ROWS) == np.ceil(rows[:-2] / TILE_ROWS))
    close &= rows[2:] <= rows[:-2] + APART
    if np.count_nonzero(close) < LEAST_ROWS:
        close = same & (rows[2:] <= CLOSE * rows[:-2])
    share = (rows[1:-1] - rows[:-2]) / np.maximum(rows[2:] - rows[:-2], 1)
    off = log[1:-1] - (1 - share) * log[:-2] - share * log[2:]
    return np.asarray((off / np.sqrt(1 + (1 - share) ** 2 + share**2))[close], dtype=np.float64)
