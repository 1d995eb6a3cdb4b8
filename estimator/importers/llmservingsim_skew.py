"""LLMServingSim's profiles whole: with ``skew.csv``, attention of decodes of which some are longer.

Of its patterns the one is taken that a batch of chat requests is most like: one sequence in sixteen, at least
one, has four times the context of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from servecast.compiler.kernels import KernelCase
from servecast.estimator.importers.csv_lines import lines_of
from servecast.estimator.importers.llmservingsim import (
    LICENCE,
    MODELS,
    OF,
    S_PER_US,
    SKUS,
    import_llmservingsim,
)
from servecast.estimator.importers.vidur import Skipped
from servecast.estimator.measurement import Measurement, Origin, Timing

ONE_IN = 16
TIMES_AS_LONG = 4
LAUNCHES = 3
"""A time in the file is the sum of so many launches: ``t_max_us`` is 2.9 to 3.05 times what ``attention.csv``
has for the same case (Llama 3.1 8B on both GPUs); ``measurement_iterations`` of their meta.yaml is 3."""

_OFF = re.compile(r"^skew_profile:\s+enabled: false", re.MULTILINE)


def import_profiles(folder: Path, skipped: Skipped) -> list[Measurement]:
    """As `import_llmservingsim`, and decodes of unequal lengths beside even ones.

    Raises:
        DataMissingError: as there.
    """
    even = import_llmservingsim(folder, skipped)
    found = sorted(folder.glob("*/**/tp*/skew.csv"))
    paths = [path for path in found if path.with_name("attention.csv").is_file()]
    return [*even, *(row for path in paths for row in _read(path, folder, skipped))]


def swept_lengths(batch: float, context: float) -> list[float]:
    """Cached tokens of each sequence of the pattern, long ones first, for a mean of ``context``."""
    many = long_ones(int(batch))
    short = batch * context / (batch + (TIMES_AS_LONG - 1) * many)
    return [TIMES_AS_LONG * short] * many + [short] * (int(batch) - many)


def long_ones(batch: int) -> int:
    return max(1, batch // ONE_IN)


def _read(path: Path, folder: Path, skipped: Skipped) -> Iterator[Measurement]:
    """Launches of the pattern without a prefill beside them."""
    meta = path.parents[1] / "meta.yaml"
    if meta.is_file() and _OFF.search(meta.read_text(encoding="utf-8")):
        skipped.reasons[f"{path.name}: meta.yaml says that the sweep is off"] += 1
        return
    relative = path.relative_to(folder)
    gpu, *name, dtype, ranks = relative.parts[:-1]
    model, tp = MODELS["/".join(name)], int(ranks.removeprefix("tp"))
    heads = {"heads": model.heads // tp, "kv_heads": max(1, model.kv_heads // tp)}
    shape = {**heads, "head_dim": model.head_dim, "window": 0}
    origin = Origin("llmservingsim", "llmservingsim", "", relative.as_posix(), LICENCE)
    for batch, context, seconds in _launches(path, skipped):
        dims = tuple(sorted({**shape, "batch": batch, "context": context}.items()))
        case = KernelCase("attention_decode_skewed", dtype, dtype, dims)
        yield Measurement(case, SKUS.get(gpu, gpu.lower()), origin, Timing(seconds), method="eager")


def _launches(path: Path, skipped: Skipped) -> Iterator[tuple[int, int, float]]:
    """Batch, mean context and seconds of one launch."""
    for line in lines_of(path, OF):
        batch, many = line.whole("n", 1), line.whole("nb", 1)
        alike = line.time("skew", "times") == TIMES_AS_LONG and many == long_ones(batch)
        if line.whole("pc") or not alike:
            skipped.reasons[f"{path.name}: another pattern of lengths"] += 1
            continue
        seconds = line.positive_time("t_skew_us", "us") * S_PER_US / LAUNCHES
        yield batch, round(line.time("kv_mean", "tokens")), seconds
