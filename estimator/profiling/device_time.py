"""How long a GPU will be busy with a plan, from the rule by which an agent stops sampling. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from servecast.agent.messages import Settings
from servecast.agent.stopping import StopRule
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelCase
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import KernelKind, shortest_s

SAMPLE_S = 0.5e-3  # a sample of short launches, on a GPU
CALIBRATION_SAMPLES = 4  # trials, and one launch as it will be timed
AROUND_CASE_S = 0.05  # memory made and filled, conditions read
LAUNCH_S = 5e-6
SHARE_OF_PEAK = 0.5  # of the datasheet's speed; kernels of large steps reach more


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Seconds on one GPU. ``least`` where all cases converge at once, ``most`` where none does.

    Repeats of throttled and unstable cases come on top.
    """

    least_s: float
    most_s: float


def device_time(cases: Sequence[KernelCase], sku: Sku | None, settings: Settings) -> DeviceTime:
    """Of measuring ``cases``; without a datasheet every launch counts as short."""
    rule = _rule(settings)
    sample_s = np.maximum(SAMPLE_S, _launches_s(cases, sku))
    around_s = AROUND_CASE_S + CALIBRATION_SAMPLES * sample_s
    least_s = rule.min_samples * sample_s
    most_s = np.maximum(least_s, np.minimum(rule.max_samples * sample_s, rule.max_case_s))
    return DeviceTime(float((around_s + least_s).sum()), float((around_s + most_s).sum()))


def _rule(settings: Settings) -> StopRule:
    names = ("relative_ci", "min_samples", "max_samples", "max_case_s")
    asked = {name: getattr(settings, name) for name in names}
    return replace(StopRule(), **{name: v for name, v in asked.items() if v is not None})


def _launches_s(cases: Sequence[KernelCase], sku: Sku | None) -> Floats:
    """What one launch of each case may take."""
    seconds = np.zeros(len(cases))
    if sku is None:
        return seconds
    for (kind, names), numbers in _by_kind(cases).items():
        sizes = [dict(cases[number].dims) for number in numbers]
        dims = {name: np.array([size[name] for size in sizes], dtype=np.int64) for name in names}
        seconds[numbers] = LAUNCH_S + shortest_s(sku, kind, dims) / SHARE_OF_PEAK
    return seconds


def _by_kind(
    cases: Sequence[KernelCase],
) -> Mapping[tuple[KernelKind, tuple[str, ...]], list[int]]:
    """Numbers of the cases that one call of physics can answer for."""
    found: dict[tuple[KernelKind, tuple[str, ...]], list[int]] = {}
    for number, case in enumerate(cases):
        kind = KernelKind(case.kernel, case.dtype, case.kv_dtype)
        found.setdefault((kind, tuple(name for name, _ in case.dims)), []).append(number)
    return found
