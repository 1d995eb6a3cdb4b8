"""How many experts a batch touches, and in how many tiles, under the routing that public tables were timed
with: tokens by expert follow a power law of popularity, and what is timed is the rank that has the most.

SOURCE: `_generate_power_law_distribution` in the collector of ai-dynamo/aiconfigurator. That takes single
tokens from and to one rank after another until they add up; here a rank takes its share of them at once.
"""

from __future__ import annotations

import numpy as np

from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims

DRAWN = 8192  # popularities in all: the more draws, the fewer the experts; the tables time five
EXPONENT = 1.01
FEW = (0.01, 2.0)  # an expert's popularity lies between, where experts outnumber choices
MANY = (1.0, 0.8)  # else, the second times the tokens


def routed_load(dims: Dims, tile_rows: int) -> tuple[Floats, Floats]:
    """Experts touched and tiles of ``tile_rows`` of theirs [cases], on the fullest rank, of so many rows in
    the whole group; both are means over draws that are the same for every batch.
    """
    columns = [dims[name] for name in ("total_experts", "experts", "top_k", "rows")]
    cases, case = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    touched, tiles = np.empty(len(cases)), np.empty(len(cases))
    for total, local, top_k in np.unique(cases[:, :3], axis=0).tolist():
        same = (cases[:, :3] == (total, local, top_k)).all(axis=1)
        touched[same], tiles[same] = _fullest(cases[same, 3], (total, local, top_k), tile_rows)
    return touched[case.reshape(-1)], tiles[case.reshape(-1)]


def _fullest(rows: Floats, shape: tuple[int, int, int], tile_rows: int) -> tuple[Floats, Floats]:
    """Of batches [rows] of one shape: experts in all, on a rank, and for each token."""
    total, local, top_k = shape
    ranks = max(1, total // local)
    chosen = (rows * top_k)[:, None, None]
    many = rows * top_k > total
    low = np.where(many, MANY[0], FEW[0])
    high = np.where(many, np.maximum(MANY[1] * rows, low), FEW[1])
    counts = _rounded(chosen, (low, high), (total, ranks * local))
    counts = np.minimum(counts, rows[:, None, None])
    counts = counts.reshape(len(rows), counts.shape[1], ranks, local)
    missing = chosen[:, :, 0] - counts.sum(axis=(2, 3))
    first = np.arange(ranks) < (np.abs(missing) % ranks)[..., None]
    more = np.sign(missing)[..., None] * (np.abs(missing)[..., None] // ranks + first)
    fullest = (counts.sum(axis=3) + more).argmax(axis=2)[..., None]
    counts = np.take_along_axis(counts, fullest[..., None], axis=2)[:, :, 0]
    more = np.take_along_axis(more, fullest, axis=2)[:, :, 0]
    used = np.count_nonzero(counts, axis=2)
    held = np.minimum(local, counts.sum(axis=2) + more)
    # What is missing goes to the least popular first, what is too much comes from the most popular.
    touched = np.where(more > 0, np.minimum(local, used + more), np.minimum(used, held))
    tiles = np.ceil(counts / tile_rows).sum(axis=2) + (touched - used)
    tiles += (more - (touched - used)) / tile_rows
    return touched.mean(axis=1), np.maximum(tiles, touched).mean(axis=1)


def _rounded(chosen: Floats, between: tuple[Floats, Floats], experts: tuple[int, int]) -> Floats:
    """Tokens of each expert [batches, draws, experts], to the nearest whole number."""
    total, placed = experts
    power = 1 - EXPONENT
    low, high = (end[:, None, None] ** power for end in between)
    drawn = np.random.default_rng(total).random((1, max(1, DRAWN // total), total))
    popularity = (low + (high - low) * drawn) ** (1 / power)
    share = popularity / popularity.sum(axis=2, keepdims=True)
    return np.asarray(np.rint(share * chosen)[..., :placed], dtype=np.float64)
