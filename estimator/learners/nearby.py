"""What trees miss of a GEMM at nearby matrices and the same rows: trees that fit one matrix too high do so
at its neighbours, for a library's choice of kernel changes from matrix to matrix by steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.measurement import Floats

Singles = NDArray[np.float32]

# Octaves by which the weight of a neighbour falls to 0.6: of inputs, and of outputs, whose tiles divide
# otherwise. With the prior weight best on GEMMs of an H100 whose shapes were left out.
INPUTS_OCTAVES, OUTPUTS_OCTAVES = 0.6, 0.15
PRIOR = 0.5  # weight of missing nothing
MOST = 0.15  # of the logarithm: what misses by more is an outlier


@dataclass(frozen=True, slots=True, eq=False)
class Nearby:
    """``missed`` [matrices, points] of the logarithm, NaN where not measured, at increasing ``rows`` [points]
    of ``matrices`` [matrices, 2] (inputs, outputs); ``place`` are the columns of rows, inputs and outputs
    among the features.
    """

    place: tuple[int, int, int]
    rows: Singles
    matrices: Singles
    missed: Singles

    def predict(self, features: Floats) -> Floats:
        """What to add to the logarithm [cases]; between rows as between their neighbours."""
        rows, *matrix = (np.maximum(features[:, column], 1.0) for column in self.place)
        shapes, number = np.unique(np.stack(matrix, axis=1), axis=0, return_inverse=True)
        at, found = np.log(self.rows), np.zeros(len(features))
        there = np.isfinite(self.missed)
        missed = np.where(there, self.missed, 0.0)
        for i, shape in enumerate(shapes):
            octaves = np.log2(self.matrices / shape) / (INPUTS_OCTAVES, OUTPUTS_OCTAVES)
            weight = np.exp(-(octaves**2).sum(axis=1) / 2)
            curve = (weight @ missed) / (weight @ there + PRIOR)
            cases = number.reshape(-1) == i
            found[cases] = np.interp(np.log(rows[cases]), at, curve)
        return found


def nearby_of(features: Floats, place: Sequence[int], missed: Floats) -> Nearby:
    """From what is missed [cases] of the logarithm at the cases a model was fitted to."""
    rows, inputs, outputs = place
    counts = np.maximum(features, 1.0)
    points, point = np.unique(counts[:, rows], return_inverse=True)
    matrices, matrix = np.unique(counts[:, [inputs, outputs]], axis=0, return_inverse=True)
    table = np.full((len(matrices), len(points)), np.nan, dtype=np.float32)
    table[matrix.reshape(-1), point.reshape(-1)] = np.clip(missed, -MOST, MOST)
    single = points.astype(np.float32), matrices.astype(np.float32)
    return Nearby((rows, inputs, outputs), *single, table)
