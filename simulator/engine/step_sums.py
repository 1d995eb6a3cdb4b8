"""What a run's metrics need of its steps, added up piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.state import Simulation

Floats = NDArray[np.float64]


class StepSums:
    """Sums over steps, and every gap between two tokens with the number of requests that have it.

    Attributes
    ----------
    steps, sequences, tokens : int
    took_s, used_block_s : float
        Of the steps, and blocks in use times seconds.
    busy_s : float
        With a batch in flight, all replicas together.
    peak_blocks : int
    """

    def __init__(self, replicas: int, stages: int) -> None:
        self.steps = self.sequences = self.tokens = self.peak_blocks = 0
        self.took_s = self.used_block_s = self.busy_s = 0.0
        self._stages = stages
        self._lane_end_s = np.full(replicas * stages, np.nan)
        self._replica_end_s = np.full(replicas, -np.inf)
        self._gaps: list[tuple[Floats, NDArray[np.int32]]] = []

    def add(self, sim: Simulation) -> None:
        """Take in the logs of a simulation, and empty them."""
        run, logged, gaps_s = sim.run[0], sim.steps, sim.gaps
        if run.num_gaps:
            again = np.array(gaps_s[: run.num_gaps])
            self._gaps.append((again, np.ones(len(again), np.int32)))
        steps: Any = logged[: run.num_steps]
        self.add_use(steps)
        for lane in np.unique(steps["lane"]):
            mine = steps[steps["lane"] == lane] if len(self._lane_end_s) > 1 else steps
            self._add_gaps(int(lane), mine["end_s"], mine["decodes"])
        run.num_steps = run.num_segments = run.num_gaps = 0

    def add_use(self, steps: Any) -> None:
        """The next steps, a structured array with the fields of `state.Step`, but for their gaps."""
        if len(steps) == 0:
            return
        took_s = steps["end_s"] - steps["start_s"]
        self.steps += len(steps)
        self.sequences += int(steps["sequences"].sum())
        self.tokens += int(steps["tokens"].sum())
        self.took_s += float(took_s.sum())
        self.used_block_s += float((steps["used_blocks"] * took_s).sum())
        self.peak_blocks = max(self.peak_blocks, int(steps["used_blocks"].max()))
        if self._stages == 1:
            self.busy_s += float(took_s.sum())  # a replica's steps follow each other
        else:
            self._add_busy(steps)

    def _add_gaps(self, lane: int, end_s: Floats, decodes: NDArray[np.int32]) -> None:
        """A step with B decodes is B equal gaps since its lane's last step."""
        gap_s = np.diff(end_s, prepend=self._lane_end_s[lane])
        self._lane_end_s[lane] = end_s[-1]
        some = decodes > 0
        self._gaps.append((gap_s[some], decodes[some]))

    def _add_busy(self, steps: Any) -> None:
        replicas = steps["lane"] // self._stages
        for r in np.unique(replicas):
            mine = steps[replicas == r] if len(self._replica_end_s) > 1 else steps
            before_s = np.concatenate((self._replica_end_s[[r]], mine["end_s"][:-1]))
            self.busy_s += float((mine["end_s"] - np.maximum(mine["start_s"], before_s)).sum())
            self._replica_end_s[r] = mine["end_s"][-1]

    def gaps(self) -> tuple[Floats, NDArray[np.int32]]:
        """Their seconds, and how often each occurs."""
        if len(self._gaps) != 1:  # in one piece from now on, and no piece is there twice
            total = sum(len(gap_s) for gap_s, _ in self._gaps)
            values, counts = np.empty(total), np.empty(total, np.int32)
            while self._gaps:
                gap_s, count = self._gaps.pop()
                total -= len(gap_s)
                values[total : total + len(gap_s)], counts[total : total + len(count)] = (
                    gap_s,
                    count,
                )
            self._gaps = [(values, counts)]
        return self._gaps[0]
