"""LLMServingSim's sweep of unequal lengths: which rows are taken, what they are, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.estimator.decode_queue import SATURATING, longer_by_queue, longest_in
from servecast.estimator.importers.llmservingsim_skew import import_profiles, swept_lengths
from servecast.estimator.importers.vidur import Skipped
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.skewed_times import (
    SKEWED,
    length_skew,
    longer_beside_prefill,
    skewed_kind,
    slowdown,
)

HEADER = "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha"
EVEN = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,4,64,8\n"
PATTERN_OF_16 = 16 * (16 + 15) / 19**2  # one of 4 units, fifteen of 1


def profile(folder: Path, *rows: str, meta: str = "") -> Path:
    """The sweep of an LLMServingSim profile of Llama 3.1 8B on two ranks of an RTX PRO 6000."""
    path = folder / "RTXPRO6000" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp2" / "skew.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    path.with_name("attention.csv").write_text(EVEN)
    if meta:
        (path.parents[1] / "meta.yaml").write_text(meta)
    return folder


TAKEN = "pure,16,1,0.0625,4.0,0,0,1024,4096,1216,300,900,330,0.05"
MANY_LONG = "pure,16,8,0.5,4.0,0,0,1024,4096,2560,600,900,600,0"
LONGER = "pure,16,1,0.0625,8.0,0,0,1024,8192,1472,300,900,330,0.05"
BESIDE_A_PREFILL = "mixed,16,1,0.0625,4.0,64,0,1024,4096,1216,300,900,330,0.05"


def test_one_of_sixteen_is_four_times_as_long() -> None:
    assert swept_lengths(16, 1216) == [4096, *[1024] * 15]
    assert swept_lengths(2, 2560) == [4096, 1024]
    assert length_skew(np.array(swept_lengths(16, 1216))) == pytest.approx(PATTERN_OF_16)


def test_a_row_is_one_launch_of_the_three_that_the_file_adds_up(tmp_path: Path) -> None:
    skipped = Skipped()
    folder = profile(tmp_path, TAKEN, MANY_LONG, LONGER, BESIDE_A_PREFILL)
    _, row = import_profiles(folder, skipped)
    assert row.case.kernel == SKEWED
    assert dict(row.case.dims) == {
        **{"batch": 16, "context": 1216},
        **{"heads": 16, "kv_heads": 4, "head_dim": 128, "window": 0},
    }
    assert row.timing is not None
    assert row.timing.mean_s == pytest.approx(110e-6)
    assert skipped.reasons == {"skew.csv: another pattern of lengths": 3}


@pytest.mark.parametrize(("word", "count"), [("true", 1), ("false", 0)])
def test_a_sweep_that_the_profile_says_is_off_is_none_of_it(
    tmp_path: Path, word: str, count: int
) -> None:
    meta = f"measurement_iterations: 3\nskew_profile:\n  enabled: {word}\n"
    skipped = Skipped()
    assert len(import_profiles(profile(tmp_path, TAKEN, meta=meta), skipped)) == 1 + count
    off = {"skew.csv: meta.yaml says that the sweep is off": 1}
    assert skipped.reasons == ({} if count else off)


DIMS = (("head_dim", 128), ("heads", 16), ("kv_heads", 4), ("window", 0))
SHAPE = KernelShape("attention_decode", "bf16", "bf16", DIMS)
DECODE = KernelKind("attention_decode", "bf16", "bf16")


def launches(batches: Sequence[int]) -> Samples:
    """Imported: 10 us and 20 ns for each cached token."""
    batch, context = (g.ravel() for g in np.meshgrid(batches, [1, 1000, 4000]))
    columns = {name: np.full(len(batch), size) for name, size in DIMS}
    columns |= {"batch": batch, "context": context}
    seconds = 10e-6 + 2e-8 * batch * context
    return samples_of(columns, seconds, np.zeros(len(batch), dtype=np.bool_))


def test_imported_rows_let_a_queue_of_blocks_tell(gpu: Sku) -> None:
    """Too many sequences to split: as much longer as their blocks wait, of what is not the launch."""
    samples = {DECODE: launches([16, 128]), skewed_kind(DECODE): launches([16])}
    predictor = Predictor(gpu, 100, samples=samples)
    drawn = (0.5, 0.5, 0.5, 2.5)
    found = slowdown(predictor, SHAPE, (np.array([128.0]), np.array([1000.0])), drawn)[0]
    told = longer_by_queue((128,), drawn, 4, 100)[0]
    share = 1 - (10e-6 + 2e-8) / (10e-6 + 2e-8 * 128_000)
    assert found - 1 == pytest.approx((told - 1) * share, rel=0.01)
    assert found > 1.01
    even = slowdown(predictor, SHAPE, (np.array([128.0]), np.array([1000.0])), ())[0]
    assert even == 1


def test_between_measured_batches_blocks_tell_where_splitting_ends(gpu: Sku) -> None:
    """Of 4 heads on 100 multiprocessors 40 sequences and more are not split; 39 have no skew."""
    samples = {DECODE: launches([16, 128]), skewed_kind(DECODE): launches([16])}
    predictor = Predictor(gpu, 100, samples=samples)
    batch, drawn = np.array([39.0, 40.0]), (0.5, 0.5, 0.5, 2.5)
    split, whole = slowdown(predictor, SHAPE, (batch, np.full(2, 1000.0)), drawn)
    assert whole > split + 0.1


def test_beside_a_prefill_the_longest_sequence_ends_alone(gpu: Sku) -> None:
    """A key takes 5 ns of the GPU's bandwidth, of which one block has a fiftieth."""
    samples = {DECODE: launches([16, 128]), skewed_kind(DECODE): launches([16])}
    predictor = Predictor(gpu, 100, samples=samples)
    lengths, drawn = (np.array([4.0]), np.array([1000.0])), (0.5, 0.5, 0.5, 2.5)
    alone_s = (slowdown(predictor, SHAPE, lengths, drawn)[0] - 1) * (10e-6 + 2e-8 * 4 * 1000)
    tail_s = longest_in((1, 2, 3, 4), drawn)[-1] * 1000 * SATURATING * 5e-9
    found_s = longer_beside_prefill(predictor, SHAPE, lengths, drawn)[0]
    assert found_s == pytest.approx(tail_s - alone_s)
    assert longer_beside_prefill(predictor, SHAPE, lengths, ())[0] == 0
    even = replace(predictor, samples={DECODE: samples[DECODE]})
    assert longer_beside_prefill(even, SHAPE, lengths, drawn)[0] == 0
