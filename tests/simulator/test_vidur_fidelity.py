"""Vidur's recorded runs, repeated batch by batch with its own tables."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest

from servecast.simulator.engine.scheduling import Batch, Job
from servecast.simulator.reference.block_scheduler import SchedulerLimits
from servecast.simulator.reference.object_engine import run_jobs
from servecast.simulator.reference.schedulers import SCHEDULERS

KV_GRAIN = 64  # tokens that Vidur rounds cached lengths up to
TOKEN_GRAIN = 8
BATCHING = (
    1.1  # Vidur's overhead of attention over more than one request, for models with grouped queries
)
LAUNCH_MS = 0.02  # of a collective


@dataclass(frozen=True)
class Golden:
    """One of the recorded configurations; what its command line says."""

    name: str
    scheduler: str
    max_num_seqs: int
    kv_blocks: int = 11008
    replicas: int = 1
    stages: int = 1
    layers: int = 28


GOLDEN = [
    Golden("conv_vllm_lo", "vllm_v0", 48),
    Golden("conv_sarathi_hi", "sarathi", 48),
    Golden("arxiv_sarathi_lo", "sarathi", 48),
    Golden("arxiv_orca_hi", "orca", 43),
    Golden("x_conv_sarathi_mem1200", "sarathi", 48, kv_blocks=1200),
    Golden("x_conv_vllm_3rep_rr", "vllm_v0", 48, replicas=3),
    Golden(
        "y_SYNATTN_h100_llama70b_tp2pp2_arxiv_sarathi", "sarathi", 128, 32768, stages=2, layers=80
    ),
    Golden("y_SYNATTN_h100_llama70b_tp2pp2_conv_vllm", "vllm_v0", 128, 32768, stages=2, layers=80),
]


def up_to(tokens: int, grain: int) -> int:
    return -(-tokens // grain) * grain


class VidurTimer:
    """Vidur's step time from the tables that it predicted (its execution_time_predictor)."""

    host_step_s = 0.0

    def __init__(self, folder: Path, golden: Golden) -> None:
        def table(name: str, keys: int) -> dict[tuple[int, ...], tuple[float, ...]]:
            rows = duckdb.sql(f"SELECT * FROM '{folder / name}.parquet'").fetchall()
            return {row[:keys]: row[keys:] for row in rows}

        columns = duckdb.sql(f"SELECT * FROM '{folder / 'token_ops'}.parquet'").columns[1:]
        self.token_ops = {
            key: dict(zip(columns, row, strict=True)) for key, row in table("token_ops", 1).items()
        }
        self.prefill, self.decode = table("attn_prefill", 2), table("attn_decode", 2)
        self.golden = golden

    def attention_ms(self, batch: Batch) -> tuple[float, float]:
        """Of the decodes, and of the prefill chunks."""
        seen = list(zip(batch.jobs, batch.before, strict=True))
        decodes = [processed for _, (processed, prefilled) in seen if prefilled]
        chunks = [(p, tokens) for (_, tokens), (p, prefilled) in seen if not prefilled]
        decode_ms = prefill_ms = 0.0
        if decodes:
            key = (len(decodes), up_to(int(np.mean(decodes)), KV_GRAIN))
            decode_ms = self.decode[key][0] * (BATCHING if len(decodes) > 1 else 1.0)
        if chunks:
            cached = sum(up_to(processed, KV_GRAIN) for processed, _ in chunks)
            length = round(sum(tokens**2 for _, tokens in chunks) ** 0.5)
            prefill_ms = self.prefill[cached, length][0] * (BATCHING if len(chunks) > 1 else 1.0)
        return decode_ms, prefill_ms

    def stage_s(self, batch: Batch, stage: int) -> float:
        tokens = sum(n for _, n in batch.jobs)
        ops = self.token_ops[(up_to(tokens, TOKEN_GRAIN),)]
        decode_ms, prefill_ms = self.attention_ms(batch)
        all_reduce_ms = ops["all_reduce"] + LAUNCH_MS if "all_reduce" in ops else 0.0
        saving_ms = self.token_ops[(tokens,)]["attn_kv_cache_save"]
        attention_ms = ops["attn_pre_proj"] + ops["attn_post_proj"] + ops["attn_rope"] + saving_ms
        attention_ms += decode_ms + prefill_ms + all_reduce_ms + ops["input_layernorm"]
        mlp_ms = ops["mlp_up_proj"] + ops["mlp_down_proj"] + ops["mlp_act"] + all_reduce_ms
        mlp_ms += ops["post_attention_layernorm"]
        layer_ms = attention_ms + mlp_ms + ops["add"]
        send_ms = ops["send_recv"] if stage + 1 < self.golden.stages else 0.0
        return (layer_ms * (self.golden.layers // self.golden.stages) + send_ms) * 1e-3

    def send_s(self, batch: Batch, stage: int) -> float:
        return 0.0  # it is part of the stage's time


def replay(golden: Golden, root: Path) -> tuple[list[Job], list[Batch]]:
    with (root / golden.name / "input_trace.csv").open() as file:
        jobs = [
            Job(
                number=int(row["request_id"]),
                arrived_s=float(row["arrived_at"]),
                prefill_tokens=int(row["num_prefill_tokens"]),
                decode_tokens=int(row["num_decode_tokens"]),
            )
            for row in csv.DictReader(file)
        ]
    tables = root / (root / golden.name / "LUT.txt").read_text().split()[0].removeprefix("../")
    limits = SchedulerLimits(
        max_num_seqs=golden.max_num_seqs,
        max_batched_tokens=4096 if golden.scheduler == "vllm_v0" else 512,
        kv_blocks=golden.kv_blocks,
        max_tokens=4096,
        watermark_blocks=golden.kv_blocks // 100,
        num_stages=golden.stages,
    )
    schedulers = [SCHEDULERS[golden.scheduler](limits) for _ in range(golden.replicas)]
    return jobs, run_jobs(jobs, schedulers, VidurTimer(tables, golden), golden.stages)


def assert_batches_equal(batches: list[Batch], folder: Path, stages: int) -> None:
    members = duckdb.sql(f"SELECT * FROM '{folder}/batch_members.parquet' ORDER BY batch_id")
    ours = [
        " ".join(
            f"{job.number}:{tokens}:{processed}"
            for (job, tokens), (processed, _) in zip(batch.jobs, batch.before, strict=True)
        )
        for batch in batches
    ]
    assert ours == [row[1] for row in members.fetchall()]
    times = duckdb.sql(
        "SELECT start_time, execution_time_s, replica_id "
        f"FROM '{folder}/batches.parquet' ORDER BY batch_id, stage_id"
    ).fetchall()
    assert len(times) == stages * len(batches)
    stage_rows = [
        (start_s, time_s, batch.replica)
        for batch in batches
        for start_s, time_s in zip(batch.start_s, batch.time_s, strict=True)
    ]
    assert [row[2] for row in stage_rows] == [row[2] for row in times]
    np.testing.assert_allclose(
        [row[:2] for row in stage_rows], [row[:2] for row in times], rtol=1e-12
    )


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_every_batch_and_every_request_time_is_vidurs(golden: Golden, shared_data: Path) -> None:
    root = shared_data / "golden/vidur-schedulers"
    jobs, batches = replay(golden, root)
    assert_batches_equal(batches, root / golden.name, golden.stages)
    with (root / golden.name / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    theirs = [
        [float(row[n]) for n in ("scheduled_at", "prefill_completed_at", "completed_at")]
        for row in rows
    ]
    ours = [[job.scheduled_s, job.first_token_s, job.finished_s] for job in jobs]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)  # written with twelve digits
    assert [job.restarts for job in jobs] == [int(row["num_restarts"]) for row in rows]
