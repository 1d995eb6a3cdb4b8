"""Times of collectives between measured message sizes, one algorithm apart from the next.

An engine changes its all-reduce at sizes that its source names: across such a size no line between two
measurements is the time of either. Within one algorithm the answer is between a line and a power law.
"""

from __future__ import annotations

import numpy as np

from servecast.estimator.measurement import Floats

KIB, MIB = 1 << 10, 1 << 20
# Of a line in the interpolation: best where sizes of five GPUs were left out in turn.
LINE_SHARE = 0.6

# First payload of the next algorithm, by degree.
# SOURCE: vLLM csrc/custom_all_reduce.cuh, one pass below these sizes and two from there on.
TWO_PASSES = {4: 512 * KIB, 8: 256 * KIB}
# SOURCE: vLLM distributed/device_communicators: custom_all_reduce.py takes less than 8 MiB, and
# all_reduce_utils.py has limits of its own for Blackwell's custom and for symmetric memory's all-reduce.
CUSTOM_ENDS = 8 * MIB
BLACKWELL_CUSTOM_ENDS = {2: 2 * MIB, 4: 2 * MIB, 8: MIB}
HOPPER_SYMMETRIC_ENDS = {2: 64 * MIB, 4: 32 * MIB, 8: 64 * MIB}
BLACKWELL_SYMMETRIC_ENDS = {2: 8 * MIB, 4: 32 * MIB, 8: 128 * MIB}
HOPPER, BLACKWELL = ("h100", "h200", "gh200"), ("b200", "b300", "gb200", "gb300")


def algorithm_starts(sku: str, kernel: str, degree: int) -> tuple[int, ...]:
    """Payloads in bytes from which another algorithm runs, increasing; none but all-reduce is split."""
    if kernel != "all_reduce":
        return ()
    starts = {TWO_PASSES[degree]} if degree in TWO_PASSES else set()
    symmetric: dict[int, int] = {}
    if sku.startswith(BLACKWELL):
        starts.add(BLACKWELL_CUSTOM_ENDS.get(degree, CUSTOM_ENDS))
        symmetric = BLACKWELL_SYMMETRIC_ENDS
    else:
        starts.add(CUSTOM_ENDS)
        symmetric = HOPPER_SYMMETRIC_ENDS if sku.startswith(HOPPER) else {}
    if degree in symmetric:
        starts.add(symmetric[degree] + 1)  # the limit itself still fits
    return tuple(sorted(starts))


def between_sizes(
    sizes: Floats, seconds: Floats, wanted: Floats, starts: tuple[int, ...] = ()
) -> Floats:
    """Seconds [wanted] of one degree, measured at increasing ``sizes``. Below the smallest message time
    stays, beyond the largest it grows in proportion; an algorithm measured at one size or none is read off
    its neighbours.
    """
    found = _interpolated(sizes, seconds, wanted)
    edges = np.array(starts)
    algorithm = np.searchsorted(edges, sizes, side="right")
    of_wanted = np.searchsorted(edges, wanted, side="right")
    for number in np.unique(of_wanted):
        own, asked = algorithm == number, of_wanted == number
        if np.count_nonzero(own) > 1:
            found[asked] = _interpolated(sizes[own], seconds[own], wanted[asked])
    further = np.maximum(wanted / sizes[-1], 1.0)
    found = np.where(wanted < sizes[0], seconds[0], found)
    return np.where(wanted > sizes[-1], seconds[-1] * further, found)


def _interpolated(sizes: Floats, seconds: Floats, wanted: Floats) -> Floats:
    """Between line and power law; outside, a line through the two nearest, at the steepest in proportion."""
    line = np.log(np.interp(wanted, sizes, seconds))
    power = np.interp(np.log(wanted), np.log(sizes), np.log(seconds))
    inside = np.exp(LINE_SHARE * line + (1 - LINE_SHARE) * power)
    first, last = np.diff(seconds[:2])[0], np.diff(seconds[-2:])[0]
    below = seconds[0] - max(first, 0.0) * (sizes[0] - wanted) / (sizes[1] - sizes[0])
    above = seconds[-1] + max(last, 0.0) * (wanted - sizes[-1]) / (sizes[-1] - sizes[-2])
    below = np.maximum(below, seconds[0] * wanted / sizes[0])
    above = np.minimum(above, seconds[-1] * wanted / sizes[-1])
    return np.where(wanted < sizes[0], below, np.where(wanted > sizes[-1], above, inside))
