"""Whether the rows of one file agree: with each other on a case, and on the unit of time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.physics import WORK, KernelKind, work_of

CONTRADICTION = 3.0  # two times of one case further apart than this are not noise
OTHER_UNIT = (
    150.0  # units of time are a thousand apart, times of like work at most 107: an A40's sends
)
LEAST_ROWS = 8  # of a kernel, to say what is usual
# Any GPU within a factor of ten or so: only what a kernel's rows say of one another counts.
LAUNCH_S, FLOPS_PER_S, BYTES_PER_S = 2e-6, 1e14, 1e12
LEAST_LAUNCH_S = 5e-7
NO_FLOPS_PER_S, NO_BYTES_PER_S = 4e15, 1e14  # of two-byte numbers more than any GPU does


@dataclass(frozen=True, slots=True)
class Timed:
    """A case, its seconds, and where they stand: file, line and column."""

    case: KernelCase
    seconds: float
    where: str


@dataclass(slots=True)
class Agreement:
    """Rows of one file as they are read."""

    _first: dict[Hashable, tuple[float, int]] = field(default_factory=dict)

    def check(self, key: Hashable, seconds: float, line: int, where: str) -> None:
        """
        Raises:
            DataMissingError: another line says clearly otherwise of the case ``key``.
        """
        before, at = self._first.setdefault(key, (seconds, line))
        if max(before, seconds) > CONTRADICTION * min(before, seconds):
            raise DataMissingError(
                f"{where}: {_text(seconds)} contradicts the {_text(before)} of the same case in line {at}"
            )


def refuse_mixed_units(rows: Iterable[Timed]) -> None:
    """
    Raises:
        DataMissingError: a row's time is in another unit, for it is so much longer than usual for its
            kernel's work in the file, or so much shorter. (One as short as a launch for work that no GPU
            does so soon is a launch that failed: physics keeps it from estimators.)
    """
    groups: dict[tuple[object, ...], list[Timed]] = {}
    for row in rows:
        names = tuple(name for name, _ in row.case.dims)
        groups.setdefault((row.case.kernel, row.case.dtype, names), []).append(row)
    for group in groups.values():
        if group[0].case.kernel in WORK and len(group) >= LEAST_ROWS:
            _refuse_outlier(group)


def _refuse_outlier(group: list[Timed]) -> None:
    case = group[0].case
    sizes = np.array([[size for _, size in row.case.dims] for row in group], dtype=np.int64)
    dims = {name: sizes[:, i] for i, (name, _) in enumerate(case.dims)}
    work = work_of(KernelKind(case.kernel, case.dtype, case.kv_dtype), dims)
    rough = LAUNCH_S + np.maximum(work.flops / FLOPS_PER_S, work.num_bytes / BYTES_PER_S)
    seconds = np.array([row.seconds for row in group])
    off = seconds / rough / np.median(seconds / rough)
    impossible = seconds < np.maximum(work.flops / NO_FLOPS_PER_S, work.num_bytes / NO_BYTES_PER_S)
    failed = (seconds >= LEAST_LAUNCH_S) & impossible
    strange = (off > OTHER_UNIT) | (~failed & (off < 1 / OTHER_UNIT))
    if strange.any():
        row, times = group[int(np.argmax(strange))], off[int(np.argmax(strange))]
        how = f"{times:.0f} times as long" if times > 1 else f"{1 / times:.0f} times as short"
        raise DataMissingError(
            f"{row.where}: {_text(row.seconds)} is {how} for its work as is usual for {case.kernel} in this"
            " file: is it in another unit of time?"
        )


def _text(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
