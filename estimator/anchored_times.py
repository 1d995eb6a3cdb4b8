"""Times between measured row counts of a shape: a model's, corrected by what it misses at both ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims, KernelKind

# Of what trees learnt of experts, whose times follow the roofline between two counts; what a rank's routing
# does is in it. Best where token counts of four GPUs were left out. GEMMs go in steps that only trees know.
BELIEVED = {"experts": 0.5}


def believed(kind: KernelKind) -> float:
    """The share of what trees add to the roofline that is believed between measured rows of a shape."""
    return BELIEVED.get(kind.kernel, 1.0)


def missed_between(
    answer: Callable[[Dims], Floats], dims: Dims, samples: tuple[Dims, Floats]
) -> Floats:
    """What to add to the logarithm of ``answer`` [cases] of ``dims``, from ``samples`` (dimensions, seconds);
    NaN outside the measured rows of a shape.
    """
    sampled, times = samples
    fixed = [name for name in sampled if name != "rows"]
    shape = np.unique(np.stack([dims[n] for n in fixed]), axis=1, return_inverse=True)[1].reshape(
        -1
    )
    found = np.full(len(shape), np.nan)
    for number in range(int(shape.max()) + 1):
        asked = np.flatnonzero(shape == number)
        same = np.logical_and.reduce([sampled[n] == dims[n][asked[0]] for n in fixed])
        near = np.flatnonzero(same)
        if len(near) < 2:
            continue
        near = near[np.argsort(sampled["rows"][near])]
        points = {name: column[near] for name, column in sampled.items()}
        at, rows = np.log(points["rows"]), np.log(dims["rows"][asked])
        missed = np.log(times[near] / answer(points))
        found[asked] = np.interp(rows, at, missed, left=np.nan, right=np.nan)
    return found
