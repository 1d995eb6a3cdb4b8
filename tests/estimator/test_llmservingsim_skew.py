"""LLMServingSim's sweep of unequal lengths: which rows are taken, what they are, and what they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelShape
from servecast.estimator.importers.llmservingsim_skew import import_profiles, swept_lengths
from servecast.estimator.importers.vidur import Skipped
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of
from servecast.estimator.skewed_times import SKEWED, length_skew, skewed_kind, slowdown

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


def launches(factor: float) -> Samples:
    """Imported: 10 us and 20 ns for each cached token, ``factor`` times."""
    batch, context = (g.ravel() for g in np.meshgrid([16, 64], [100, 1000, 4000]))
    columns = {name: np.full(len(batch), size) for name, size in DIMS}
    columns |= {"batch": batch, "context": context}
    seconds = np.asarray(factor * (10e-6 + 2e-8 * batch * context), dtype=np.float64)
    return samples_of(columns, seconds, np.zeros(len(batch), dtype=np.bool_))


def test_imported_rows_count_by_the_skew_of_their_own_pattern(gpu: Sku) -> None:
    """20 % longer at the pattern's skew, 10 % at half of it."""
    samples = {DECODE: launches(1.0), skewed_kind(DECODE): launches(1.2)}
    predictor = Predictor(gpu, 100, samples=samples)
    at = np.array([16.0]), np.array([1000.0])
    for share in (1.0, 0.5):
        drawn = 1 + share * (PATTERN_OF_16 - 1) * 16 / 15
        assert slowdown(predictor, SHAPE, at, drawn)[0] == pytest.approx(1 + 0.2 * share)
