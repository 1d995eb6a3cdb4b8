"""Decodes of unequal lengths: slower by what agents measured of one pattern, as the workload is skewed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.build import build_tables
from servecast.estimator.engine_profile import ENGINE_PROFILES
from servecast.estimator.load import TableLoader
from servecast.estimator.measurement import Floats, Ints, MeasurementBatch
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.skewed_times import (
    SKEWED,
    expected_lengths,
    length_skew,
    skewed_kind,
    slowdown,
)
from servecast.estimator.store import Store
from servecast.estimator.tables import TableBounds

DIMS = (("head_dim", 64), ("heads", 4), ("kv_heads", 2), ("window", 0))
SHAPE = KernelShape("attention_decode", "bf16", "bf16", DIMS)
DECODE = KernelKind("attention_decode", "bf16", "bf16")
PATTERN_OF_16 = 16 / 7  # two of sixteen hold half of the tokens
DRAWN_AT_16 = (
    1 + (PATTERN_OF_16 - 1) * 16 / 15
)  # large batches' skew, of which sixteen show 15 / 16


def drawn(skew: float) -> tuple[float, ...]:
    """Fifteen short sequences and a long one, of that length skew and a mean of 1."""
    return (1 + np.sqrt(15 * (skew - 1)), *[1 - np.sqrt((skew - 1) / 15)] * 15)


def decodes(factor: float, batch: Ints, context: Ints) -> Samples:
    """10 us and 1.5 ns for each cached token, ``factor`` times."""
    columns = {name: np.full(len(batch), size) for name, size in DIMS}
    columns |= {"batch": batch, "context": context}
    local = np.ones(len(batch), dtype=np.bool_)
    seconds = np.asarray(factor * (10e-6 + 1.5e-9 * batch * context), dtype=np.float64)
    return samples_of(columns, seconds, local)


@pytest.fixture
def skewed(gpu: Sku) -> Predictor:
    """Batches of the measured pattern take 40 % longer."""
    batch, context = (g.ravel() for g in np.meshgrid([1, 16, 64], [7, 1400, 2800]))
    uneven = batch > 1
    samples = {
        DECODE: decodes(1.0, batch, context),
        skewed_kind(DECODE): decodes(1.4, batch[uneven], context[uneven]),
    }
    return Predictor(gpu, 100, samples=samples)


def at(batch: float, context: float) -> tuple[Floats, Floats]:
    return np.array([batch]), np.array([context])


def test_equal_lengths_have_no_skew_and_one_of_all_has_the_batchs() -> None:
    assert length_skew(np.full(8, 100.0)) == 1
    assert length_skew(np.array([100.0, 0, 0, 0])) == 4


def test_the_measured_pattern_takes_what_was_measured(skewed: Predictor) -> None:
    assert slowdown(skewed, SHAPE, at(16, 1400), drawn(DRAWN_AT_16))[0] == pytest.approx(1.4)


def test_half_the_skew_takes_half_as_much_longer(skewed: Predictor) -> None:
    half = 1 + (DRAWN_AT_16 - 1) / 2
    assert slowdown(skewed, SHAPE, at(16, 2000), drawn(half))[0] == pytest.approx(1.2, rel=0.01)


def test_even_batches_and_unmeasured_shapes_take_what_they_took(skewed: Predictor) -> None:
    assert slowdown(skewed, SHAPE, at(16, 1400), ())[0] == 1
    assert slowdown(skewed, SHAPE, at(16, 1400), drawn(1.0))[0] == 1
    wider = replace(SHAPE, dims=(("head_dim", 128), *DIMS[1:]))
    assert slowdown(skewed, wider, at(16, 1400), drawn(2.0))[0] == 1
    without = replace(skewed, samples={DECODE: skewed.samples[DECODE]})
    assert slowdown(without, SHAPE, at(16, 1400), drawn(2.0))[0] == 1


def test_a_workload_of_equal_prompts_is_skewed_by_its_outputs_alone() -> None:
    """From 0 to 300 tokens evenly: a mean of 150, and of the squares 300^2 / 3."""
    prompts, outputs = np.zeros(5, dtype=np.int64), np.full(5, 300)
    levels = np.array(expected_lengths(prompts, outputs))
    assert length_skew(levels) == pytest.approx(4 / 3, rel=0.02)
    assert levels[[64, 192]] == pytest.approx([0.5, 1.5], abs=0.03)
    assert expected_lengths(np.full(5, 10**9), outputs) == (1.0,) * len(levels)


def test_a_request_is_in_a_batch_as_often_as_it_has_tokens() -> None:
    """Three of four sequences are the long ones, which have three times the tokens."""
    levels = np.array(expected_lengths(np.array([1000, 9000]), np.array([10, 30])))
    assert np.mean(levels > 1) == pytest.approx(0.75, abs=0.04)
    assert levels[-1] / levels[0] == pytest.approx(9, rel=0.01)
    assert expected_lengths(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) == ()
    many = expected_lengths(np.arange(100_000), np.ones(100_000, dtype=np.int64))
    assert many[128] == pytest.approx(1, abs=0.01)


def test_tables_of_a_skewed_workload_decode_more_slowly(
    skewed: Predictor, gpu: Sku, model: Callable[..., ShardedProgram]
) -> None:
    bounds = TableBounds(64, 16, 4096, 65536)
    even, uneven = (
        build_tables(model(), gpu, b, skewed, ENGINE_PROFILES["none"])
        for b in (bounds, replace(bounds, drawn=drawn(DRAWN_AT_16)))
    )
    ratio = uneven.decode_s[0, 16, 1:] / even.decode_s[0, 16, 1:]
    assert ratio == pytest.approx(1.4, rel=0.02)
    np.testing.assert_array_equal(uneven.decode_s[0, 1], even.decode_s[0, 1])  # alone, like itself
    np.testing.assert_array_equal(uneven.prefill_s, even.prefill_s)


def test_a_loader_told_of_lengths_asks_for_it_where_a_store_has_such_rows(
    tmp_path: Path,
    small_batches: Sequence[MeasurementBatch],
    gpu: Sku,
    model: Callable[..., ShardedProgram],
) -> None:
    """Without rows of unequal lengths all traffic has the same tables; with them decodes take longer."""
    even = next(b for b in small_batches if b.kernel == "attention_decode")
    slower = replace(even, kernel=SKEWED, times_s={"mean_s": 1.4 * even.times_s["mean_s"]})
    bounds, lengths = TableBounds(64, 16, 4096, 65536), (np.array([1, 4000]), np.array([8, 8]))
    ratios = []
    for name, batches in (("even", small_batches), ("both", [*small_batches, slower])):
        with Store.open(tmp_path / name) as store:
            store.add_batches(batches)
        loader = TableLoader(tmp_path / name)
        plain = loader.tables(model(), gpu, bounds)
        loader.expect_lengths(*lengths)
        told = loader.tables(model(), gpu, bounds)
        ratios.append(float(np.max(told.decode_s / np.maximum(plain.decode_s, 1e-12))))
    assert ratios[0] == 1
    assert ratios[1] > 1.1
