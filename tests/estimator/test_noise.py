"""The noise of measured times: from repeats, else from neighbours, else assumed."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.noise import ASSUMED, noise_of

NO_REPEATS = np.array([np.nan])


def gemms(noise: float, shapes: int = 200) -> tuple[dict[str, Ints], Floats]:
    """Of 8 to 17 rows each, odd ones a fifth slower, every time off by ``noise``."""
    rows = np.tile(np.arange(8, 18), shapes)
    inputs = np.repeat(np.arange(shapes), 10)
    off = np.random.default_rng(0).normal(0, noise, len(rows))
    seconds = (1e-5 + 1e-7 * rows) * np.where(rows % 2, 1.2, 1.0) * np.exp(off)
    return {"rows": rows, "in_features": inputs}, seconds


def test_repeats_of_a_case_tell_their_noise() -> None:
    of_repeats = np.array([0.01] * 15 + [0.02] * 16 + [np.nan, 0.0])
    assert noise_of(*gemms(0.5), of_repeats) == 0.02


def test_without_repeats_rows_scatter_about_the_line_between_their_neighbours() -> None:
    assert noise_of(*gemms(0.05), NO_REPEATS) == pytest.approx(0.05, rel=0.1)
    assert noise_of(*gemms(0.0), NO_REPEATS) < 1e-3


def test_rows_far_apart_are_no_neighbours() -> None:
    """Each doubled row count is another amount of work: nothing to learn of noise."""
    rows = 2 ** np.arange(30)
    dims = {"rows": rows, "width": 0 * rows + 64}
    assert noise_of(dims, 1e-6 * rows.astype(float), NO_REPEATS) == ASSUMED


def test_few_rows_and_kernels_that_sweep_nothing_are_assumed_to_scatter() -> None:
    dims, seconds = gemms(0.05, shapes=1)
    assert noise_of(dims, seconds, NO_REPEATS) == ASSUMED
    assert noise_of({"batch": dims["rows"]}, seconds, NO_REPEATS) == ASSUMED


def decodes(noise: float) -> tuple[dict[str, Ints], Floats]:
    """Of six contexts within one block of keys and three beyond, where time doubles with them."""
    contexts = np.array([1, 3, 7, 15, 31, 63, 127, 255, 511])
    context, batch = (each.ravel() for each in np.meshgrid(contexts, np.arange(1, 301)))
    off = np.random.default_rng(0).normal(0, noise, len(context))
    seconds = 1e-5 * np.maximum(1, context / 64) * np.exp(off)
    return {"context": context, "batch": batch}, seconds


def test_decodes_scatter_about_those_within_the_same_block_of_keys() -> None:
    assert noise_of(*decodes(0.05), NO_REPEATS) == pytest.approx(0.05, rel=0.1)
    assert noise_of(*decodes(0.0), NO_REPEATS) < 1e-3


def test_a_prefill_has_no_neighbours() -> None:
    dims, seconds = decodes(0.05)
    assert noise_of(dims | {"chunk": dims["batch"]}, seconds, NO_REPEATS) == ASSUMED
