"""Rows that cannot be are kept from estimators, with the reason, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.quarantine import CACHED, DISTURBED, IMPOSSIBLE, POOR_PCIE, screened

ORIGIN = Origin("silicon")


def kept_back(batch: MeasurementBatch, gpu: Sku) -> dict[str, list[float]]:
    """Times by reason; the empty reason holds those that estimators read."""
    parts = list(screened(batch, {"gpu": gpu}))
    assert sum(part.num_rows for part in parts) == batch.num_rows
    return {p.quarantine or "": list(p.times_s["mean_s"]) for p in parts if p.num_rows}


def test_a_gemm_faster_than_the_peak_is_kept_back(gpu: Sku) -> None:
    sizes = np.full(3, 1000)
    batch = MeasurementBatch(
        *("linear", "bf16", "", "gpu", ORIGIN),
        dims={"rows": sizes, "in_features": sizes, "out_features": sizes},
        times_s={"mean_s": np.array([19.7e-6, 19e-6, 30e-6])},  # 20 us at the peak
    )
    assert kept_back(batch, gpu) == {"": [19.7e-6, 30e-6], IMPOSSIBLE: [19e-6]}


def test_decode_attention_out_of_l2_is_kept_back(gpu: Sku) -> None:
    """64 tokens of one head: a launch. 65,536: 16.8 us of memory time on top of it."""
    context = np.array([63, 65535, 65535])
    one = np.ones_like(context)
    batch = MeasurementBatch(
        *("attention_decode", "bf16", "bf16", "gpu", ORIGIN),
        dims={
            **{"heads": one, "kv_heads": one, "head_dim": 64 * one, "window": 0 * one},
            **{"batch": one, "context": context},
        },
        times_s={"mean_s": np.array([10e-6, 20e-6, 27e-6])},
    )
    assert kept_back(batch, gpu) == {"": [10e-6, 27e-6], CACHED: [20e-6]}


def test_all_sizes_of_a_degree_are_kept_back_where_pcie_is_poor(gpu: Sku) -> None:
    pcie = replace(gpu, link_kind="pcie", link_bytes_per_s=32e9)
    batch = MeasurementBatch(
        *("all_reduce", "bf16", "", "gpu", ORIGIN),
        dims={
            "degree": np.array([2, 2, 8, 8]),
            "payload_bytes": np.array([1024, 1 << 26, 1024, 1 << 26]),
        },
        times_s={"mean_s": np.array([1e-5, 5e-3, 5e-5, 60e-3])},
    )
    assert kept_back(batch, pcie) == {"": [1e-5, 5e-3], POOR_PCIE: [5e-5, 60e-3]}
    assert kept_back(batch, gpu) == {"": [1e-5, 5e-3, 5e-5, 60e-3]}


def test_a_batch_kept_back_before_keeps_its_reason(gpu: Sku) -> None:
    batch = MeasurementBatch(
        *("add", "bf16", "", "gpu", ORIGIN),
        dims={"rows": np.array([10**9]), "width": np.array([10**6])},
        times_s={"mean_s": np.array([1e-9])},
        quarantine="eager",
    )
    assert kept_back(batch, gpu) == {"eager": [1e-9]}


def test_without_a_datasheet_nothing_is_kept_back(gpu: Sku) -> None:
    batch = MeasurementBatch(
        *("add", "bf16", "", "another", ORIGIN),
        dims={"rows": np.array([10**9]), "width": np.array([10**6])},
        times_s={"mean_s": np.array([1e-9])},
    )
    assert kept_back(batch, gpu) == {"": [1e-9]}


def gemms(seconds: list[float]) -> MeasurementBatch:
    """One shape at 1, 2, 3 … rows."""
    rows = np.arange(1, len(seconds) + 1)
    return MeasurementBatch(
        *("linear", "bf16", "", "gpu", ORIGIN),
        dims={"rows": rows, "in_features": 0 * rows + 256, "out_features": 0 * rows + 256},
        times_s={"mean_s": np.array(seconds)},
    )


def test_a_gemm_slower_than_all_its_neighbours_is_kept_back(gpu: Sku) -> None:
    """A larger batch computes the smaller one as well, so nothing but a disturbance explains it."""
    assert kept_back(gemms([30e-6, 10e-6, 10e-6, 10e-6, 11e-6]), gpu)[DISTURBED] == [30e-6]
    assert kept_back(gemms([10e-6, 10e-6, 30e-6, 10e-6, 10e-6, 11e-6]), gpu)[DISTURBED] == [30e-6]


def test_a_step_between_tiles_is_no_disturbance(gpu: Sku) -> None:
    assert list(kept_back(gemms([10e-6, 10e-6, 20e-6, 10e-6, 22e-6, 22e-6, 22e-6]), gpu)) == [""]


def test_the_largest_batches_have_none_to_be_padded_to(gpu: Sku) -> None:
    assert list(kept_back(gemms([10e-6, 10e-6, 10e-6, 10e-6, 30e-6]), gpu)) == [""]


def test_a_message_slower_than_larger_ones_is_kept_back(gpu: Sku) -> None:
    """As one 4 KiB all-reduce among eight A100s in the public tables: 14.8 us between 5.6 and 6.3."""
    microseconds = np.array([5.7, 5.6, 14.8, 6.3, 6.5, 6.9, 20.0])
    batch = MeasurementBatch(
        *("all_reduce", "bf16", "", "gpu", ORIGIN),
        dims={"degree": np.full(7, 8), "payload_bytes": 1024 << np.arange(7)},
        times_s={"mean_s": 1e-6 * microseconds},
    )
    assert kept_back(batch, gpu)[DISTURBED] == [pytest.approx(14.8e-6)]


def test_a_decode_slower_than_over_longer_contexts_is_kept_back(gpu: Sku) -> None:
    """As one head of an A100 in the public tables: 44.6 us at a context of 7, 13.4 at 3, 15 and 63."""
    microseconds = np.array([13.4, 13.4, 44.6, 13.4, 13.5, 13.5, 18.0])
    context = 2 ** np.arange(1, 8) - 1
    one = np.ones_like(context)
    batch = MeasurementBatch(
        *("attention_decode", "bf16", "bf16", "gpu", ORIGIN),
        dims={
            **{"heads": 4 * one, "kv_heads": one, "head_dim": 128 * one, "window": 0 * one},
            **{"batch": one, "context": context},
        },
        times_s={"mean_s": 1e-6 * microseconds},
    )
    assert kept_back(batch, gpu)[DISTURBED] == [pytest.approx(44.6e-6)]
