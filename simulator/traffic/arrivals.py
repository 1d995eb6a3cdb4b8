"""Gamma gaps, and workloads longer than their trace.

Every draw comes from a stream named by a seed and a purpose, so that one more use of chance in one
place moves nothing elsewhere.
"""

from __future__ import annotations

import zlib

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.workload import Floats, Workload

MIN_CV = 1e-6
"""Below it gaps are regular to the microsecond, and the gamma distribution's shape overflows."""

MAX_CV = 100.0
"""Beyond it nearly every gap rounds to nothing and the rest is one pause."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one purpose; equal seed and name give equal numbers on every machine."""
    if seed < 0:
        raise UserError(f"seed {seed} must be 0 or more")
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def gamma_arrivals(
    num_requests: int, rate_per_s: float, cv: float, rng: np.random.Generator
) -> Floats:
    """Arrival times from 0 whose gaps are gamma distributed, with coefficient of variation ``cv``.

    1 is a Poisson process, 0 a metronome, above 1 is bursty (BurstGPT, Wang et al. 2024, section 4).

    Raises:
        UserError: a rate that is not above 0, or a ``cv`` out of range.
    """
    if not 0 < rate_per_s < np.inf:
        raise UserError(f"arrival rate {rate_per_s:g} must be above 0 requests per second")
    if not 0 <= cv <= MAX_CV:
        raise UserError(
            f"arrival CV {cv:g} must be 0 (regular), 1 (Poisson) or up to {MAX_CV:g} (bursty)"
        )
    mean_gap_s = 1 / rate_per_s
    if cv < MIN_CV:
        return np.arange(num_requests, dtype=np.float64) * mean_gap_s
    gaps_s = rng.gamma(shape=cv**-2, scale=mean_gap_s * cv**2, size=num_requests - 1)
    return np.concatenate((np.zeros(1), np.cumsum(gaps_s, dtype=np.float64)))


def bootstrap(
    workload: Workload, num_requests: int, seed: int, block_requests: int = 100
) -> Workload:
    """A workload of any length with the trace's own bursts, lengths and their correlations.

    Circular block bootstrap (Politis and Romano 1992): runs of ``block_requests`` neighbours are
    drawn with replacement, each request with the gap before it. What happens within a block is
    kept, what spans blocks (a daily rhythm) is not. A request drawn twice keeps its prefix blocks.
    """
    if num_requests < 1 or block_requests < 1:
        raise UserError(
            f"{workload.name}: cannot resample {num_requests} requests in blocks of {block_requests}"
        )
    num_blocks = -(-num_requests // block_requests)
    starts = stream(seed, "bootstrap").integers(len(workload), size=num_blocks)
    index = (starts[:, None] + np.arange(block_requests)).ravel()[:num_requests] % len(workload)
    # The first request has no gap before it: the mean closes the circle and keeps the rate.
    gaps_s = np.concatenate(([1 / workload.rate_per_s], np.diff(workload.arrival_s)))[index]
    return workload.take(index, np.cumsum(gaps_s) - gaps_s[0])
