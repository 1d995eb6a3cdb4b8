"""What a simulation leaves behind: one row per request, one per step, and every token's time in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.step_sums import StepSums

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LateTargets:
    """Limits, and how many requests (gaps between tokens, for tbt) may exceed each. A run is given up
    once more do: exactly then, since what is late stays late. `metrics.allowed_late` gives the counts.

    Without ``steps_kept`` the records may have none, and no segments: nobody looks at them.
    """

    queue_delay_s: float = math.inf
    ttft_s: float = math.inf
    e2e_s: float = math.inf
    tbt_s: float = math.inf
    max_late_queue_delay: int = 0
    max_late_ttft: int = 0
    max_late_e2e: int = 0
    max_late_gaps: int = 0
    steps_kept: bool = True


@dataclass(frozen=True, slots=True)
class Most:
    """No step had more."""

    tokens: int
    sequences: int
    used_blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Views into the engine's buffers, valid until its next run; ``copy`` keeps them.

    ``requests``, ``steps`` and ``segments`` are structured arrays with the fields of `state.Request`,
    `state.Step` (in the order of launching) and `state.Segment`. Times are seconds; NaN: never came.
    """

    requests: NDArray[np.void]
    steps: NDArray[np.void]
    segments: NDArray[np.void]
    prompt_tokens: Ints
    output_tokens: Ints
    rejected: NDArray[
        np.bool_
    ]  # [requests] never served: too long, turned away, or gave up waiting
    replicas: int
    stages: int
    kv_blocks: int
    prefix_hit_tokens: Ints | None  # [requests] of the prompt; None: there was no prefix cache
    broken_metric: str | None  # more was late than may be: the rest was not simulated
    most: Most | None = None  # of all steps, where the engine has counted
    lock_step: bool = True  # a step's decodes all had a token in their lane's step before
    sums: StepSums | None = None  # of a run in chunks, instead of its steps and segments
    modes: Mapping[str, Any] = field(default_factory=dict)  # JSON: what the fleet's modes did

    def __len__(self) -> int:
        return len(self.requests)

    def copy(self) -> Records:
        return replace(
            self,
            requests=self.requests.copy(),
            steps=self.steps.copy(),
            segments=self.segments.copy(),
        )

    @property
    def arrival_s(self) -> Floats:
        return self.requests["arrival_s"]

    @property
    def scheduled_s(self) -> Floats:
        """When the request was first put into a batch."""
        return self.requests["scheduled_s"]

    @property
    def first_token_s(self) -> Floats:
        return self.requests["first_token_s"]

    @property
    def finish_s(self) -> Floats:
        return self.requests["finish_s"]

    @property
    def queue_delay_s(self) -> Floats:
        """[requests] from the arrival until the request was first put into a batch."""
        return self.scheduled_s - self.arrival_s

    @property
    def preemptions(self) -> NDArray[np.int32]:
        return self.requests["preemptions"]

    @property
    def replica(self) -> NDArray[np.int32]:
        return self.requests["replica"]

    @property
    def finished(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.finish_s)

    @property
    def start_s(self) -> Floats:
        """When each step entered stage 0."""
        return self.steps["start_s"]

    @property
    def end_s(self) -> Floats:
        """When its tokens came out."""
        return self.steps["end_s"]

    @property
    def tokens(self) -> NDArray[np.int32]:
        return self.steps["tokens"]

    @property
    def sequences(self) -> NDArray[np.int32]:
        return self.steps["sequences"]

    @property
    def decodes(self) -> NDArray[np.int32]:
        return self.steps["decodes"]

    @property
    def cached_tokens(self) -> NDArray[np.int32]:
        """KV tokens that the step's decodes found in the cache."""
        return self.steps["cached"]

    @property
    def prefill_s(self) -> Floats:
        """Attention of the step's prefill chunks, over all stages."""
        return self.steps["prefill_s"]

    @property
    def used_blocks(self) -> NDArray[np.int32]:
        return self.steps["used_blocks"]

    @property
    def lane(self) -> NDArray[np.int32]:
        """Replica * stages + batch slot."""
        return self.steps["lane"]

    @property
    def given_up(self) -> bool:
        return self.broken_metric is not None

    def by_lane(self) -> tuple[Ints | slice, Ints]:
        """The order of the steps lane after lane, each lane's in time, and where each lane begins."""
        lanes = np.arange(self.replicas * self.stages + 1)
        if len(lanes) == 2:
            return slice(None), np.array([0, len(self.steps)])
        order = np.argsort(self.lane, kind="stable")
        return order, np.searchsorted(self.lane[order], lanes)

    def token_segments(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Runs of tokens, a request's in order: its number, then first and last index into the last, the
        times of all steps by lane. Requests that did not finish have only runs before a preemption."""
        order, begins = self.by_lane()
        finished = np.flatnonzero(self.finished)
        rows = self.requests[finished]
        request = np.concatenate((self.segments["request"], finished))
        begin = begins[np.concatenate((self.segments["lane"], rows["lane"]))]
        first = np.concatenate((self.segments["first"], rows["prompt"] - rows["base"] - 1))
        last = np.concatenate((self.segments["last"], rows["last"]))
        by_request = np.argsort(request, kind="stable")
        first, last = (begin + first)[by_request], (begin + last)[by_request]
        return request[by_request], first, last, self.end_s[order]

    def token_times(self) -> list[Floats]:
        """The time of every token, [requests] of [tokens].

        O(tokens): for tests, timelines and small runs. The metrics never build it.
        """
        parts: list[list[Floats]] = [[np.empty(0)] for _ in range(len(self))]
        request, first, last, end_s = self.token_segments()
        for i, a, b in zip(request, first, last, strict=True):
            parts[i].append(end_s[a : b + 1])
        return [np.concatenate(part) for part in parts]
