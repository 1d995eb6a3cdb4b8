"""The traffic: when requests arrive and how many tokens each one brings and asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in arrival order. Arrays of shape [requests]: float64 seconds from 0, int64 tokens."""

    name: str
    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Requests per second over the span of the arrivals."""
        return (len(self) - 1) / float(self.arrival_s[-1] - self.arrival_s[0])

    def at_rate(self, rate_per_s: float) -> Workload:
        """The same requests in the same pattern, arriving at another mean rate."""
        return replace(self, arrival_s=self.arrival_s * (self.rate_per_s / rate_per_s))
