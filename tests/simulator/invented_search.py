"""A search over real spaces with invented operator times: weights over bandwidth, and so much a token."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.hardware import Sku
from servecast.compiler.load import load_spec
from servecast.compiler.service import Slo
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import SOURCES, RuntimeTables, Source, TableBounds
from servecast.estimator.uncertain import Step, UncertainOperator
from servecast.simulator.search.market import Market
from servecast.simulator.search.objective import OBJECTIVES
from servecast.simulator.search.pool import Here
from servecast.simulator.search.question import Question
from servecast.simulator.search.searching import Means, Searching
from servecast.simulator.search.space import Axes
from servecast.simulator.search.worker import Worker
from servecast.simulator.traffic.arrivals import gamma_arrivals, stream
from servecast.simulator.traffic.workload import Workload

SPEC = Path(__file__).resolve().parents[2] / "spec" / "llama.llm"


class InventedTimes(TableLoader):
    """Measured, all of them, unless ``datasheet`` names the SKU."""

    def __init__(self, datasheet: Sequence[str] = ()) -> None:
        super().__init__(None)
        self.datasheet = datasheet
        self.asked: list[str] = []

    def expect(self, sku: Sku, programs: Sequence[ShardedProgram]) -> None:
        pass

    def provenance(self, sku: Sku) -> dict[str, object]:
        return {}

    def notes(self, sku: Sku) -> tuple[str, ...]:
        return ()

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        self.asked.append(f"{sku.name} {sharded.parallelism.gpus}")
        return invented(sharded, sku, bounds, analytical=sku.name in self.datasheet)

    def uncertain_operators(
        self, sharded: ShardedProgram, sku: Sku, step: Step
    ) -> list[UncertainOperator]:
        return [UncertainOperator("linear bf16", 1.0, 0.2, Source.INTERPOLATED)]

    def drawn_tables(
        self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds, draw: int
    ) -> RuntimeTables:
        factor = float(np.exp(0.1 * stream(draw, sku.name).standard_normal()))
        return invented(sharded, sku, bounds, factor=factor)


def invented(
    sharded: ShardedProgram,
    sku: Sku,
    bounds: TableBounds,
    *,
    analytical: bool = False,
    factor: float = 1.0,
) -> RuntimeTables:
    degrees = sharded.parallelism
    weight_bytes = max(stage.weight_bytes for stage in sharded.stages)
    step_s = factor * (weight_bytes / sku.bandwidth_bytes_per_s + 20e-6 * degrees.tp)
    token_s = factor * weight_bytes / (0.5 * dict(sku.peak_flops_per_s)["bf16"])
    tokens = np.arange(bounds.max_batched_tokens + 1.0)
    row = np.where(tokens > 0, np.maximum(step_s, token_s * tokens), 0.0)
    shares = np.zeros(len(SOURCES))
    shares[-1 if analytical else 0] = 1.0
    stages, seqs = degrees.pp, bounds.max_num_seqs
    return RuntimeTables(
        token_s=np.tile(row, (stages, 1)),
        sequence_s=np.zeros((stages, seqs + 1)),
        prefill_s=np.zeros((stages, 2, 2)),
        prefill_base_s=np.zeros(stages),
        decode_s=np.zeros((stages, seqs + 1, 2)),
        send_s=np.zeros((stages, len(tokens))),
        host_step_s=0.0,
        context_step_tokens=200_000,
        chunk_step_tokens=200_000,
        kv_step_tokens=100_000_000,
        token_shares=np.tile(shares, (len(tokens), 1)),
        sequence_shares=np.tile(shares, (seqs + 1, 1)),
        prefill_shares=np.tile(shares, (2, 1)),
        decode_shares=np.tile(shares, (2, 1)),
    )


def workload(requests: int = 1000, rate_per_s: float = 20.0) -> Workload:
    rng = stream(11, "invented")
    return Workload(
        "drawn",
        gamma_arrivals(requests, rate_per_s, 1.5, rng),
        np.maximum(rng.lognormal(6.0, 1.0, requests), 1).astype(np.int64),
        np.maximum(rng.lognormal(4.5, 0.8, requests), 2).astype(np.int64),
    )


SMALL = Axes(("h100-sxm", "a100-sxm-80gb", "l40s"), (1, 2), (1,), (32, 128), (512, 2048))


def question(axes: Axes = SMALL, objective: str = "qps_per_usd", **changes: Any) -> Question:
    spec = load_spec(SPEC)
    asked: dict[str, Any] = {
        "programs": {"declared": spec.model(changes.pop("model", None))},
        "skus": shipped_skus(),
        "axes": axes,
        "slos": (Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2)),
        "market": Market(16),
        "seed": 0,
        "objective": OBJECTIVES[objective],
    }
    return Question(**{**asked, **changes})


def searching(
    asked: Question,
    journal: Path,
    traffic: Workload | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    loader: TableLoader | None = None,
    resampled: Workload | None = None,
    **means: Any,
) -> Searching:
    """``resampled``: what capacities are found with, where the traffic is short."""
    traffic = traffic or workload()
    how = Means(loader or InventedTimes(), Here, progress, journal, **means)
    tokens = traffic.mean_sequence_tokens
    apart = asked.pairings(tokens).kept
    return Searching(
        asked, asked.space(tokens), asked.demand(traffic, resampled or traffic), how, apart
    )


def num_requests(worker: Worker) -> int:
    """A task for a pool, here because its processes can import this module and no test file."""
    return len(worker.demand.trace)


def die(_: Worker) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(_: Worker, path: Path) -> bool:
    """Until somebody makes the file."""
    while not path.exists():
        time.sleep(0.01)
    return True
