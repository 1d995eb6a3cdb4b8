"""Older engines' policies, by schedules worked by hand: a step takes one second a token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servecast.simulator.block_scheduler import SchedulerLimits
from servecast.simulator.object_engine import Batch, Job, run_jobs
from servecast.simulator.schedulers import SCHEDULERS

LIMITS = SchedulerLimits(
    max_num_seqs=2, max_batched_tokens=4, kv_blocks=100, max_tokens=20, block_tokens=1
)


class OneSecondAToken:
    host_step_s = 0.0

    def send_s(self, batch: Batch, stage: int) -> float:
        return 0.0

    def stage_s(self, batch: Batch, stage: int) -> float:
        return float(sum(tokens for _, tokens in batch.jobs))


def run(
    policy: str, *rows: tuple[float, int, int], limits: SchedulerLimits = LIMITS
) -> tuple[list[Job], list[list[tuple[int, int]]]]:
    """Jobs of (arrival, prompt, output), and of each batch the jobs and their tokens."""
    jobs = [Job(number, *row) for number, row in enumerate(rows)]
    batches = run_jobs(jobs, [SCHEDULERS[policy](limits)], OneSecondAToken(), limits.num_stages)
    return jobs, [[(job.number, tokens) for job, tokens in batch.jobs] for batch in batches]


def test_a_static_batch_ends_with_its_longest_job() -> None:
    """A and B 0-4, 4-6; B is done, A alone 6-7; only then C, which has waited since 1."""
    jobs, batches = run("static", (0, 2, 3), (0, 2, 2), (1, 1, 1))
    assert batches == [[(0, 2), (1, 2)], [(0, 1), (1, 1)], [(0, 1)], [(2, 1)]]
    assert [job.finished_s for job in jobs] == [7, 6, 8]


def test_vllm_v0_lets_prompts_stop_the_decodes() -> None:
    """B arrives while A decodes; its prompt is a batch of its own."""
    _, batches = run("vllm_v0", (0, 2, 3), (2.5, 3, 1))
    assert batches == [[(0, 2)], [(0, 1)], [(1, 3)], [(0, 1)]]


def test_sarathi_fills_the_budget_behind_the_decodes_with_a_chunk() -> None:
    """Beside A's token three of B's five prompt tokens, then two."""
    _, batches = run("sarathi", (0, 2, 4), (1, 5, 1))
    assert batches == [[(0, 2)], [(0, 1), (1, 3)], [(0, 1), (1, 2)], [(0, 1)]]


def test_orca_mixes_whole_prompts_with_decodes() -> None:
    _, batches = run("orca", (0, 2, 3), (1, 5, 1))
    assert batches == [[(0, 2)], [(0, 1), (1, 5)], [(0, 1)]]


def test_orca_reserves_the_longest_length_for_every_job() -> None:
    """Thirty blocks hold one job of at most twenty tokens."""
    _, batches = run("orca", (0, 2, 2), (0, 2, 1), limits=replace(LIMITS, kv_blocks=30))
    assert batches == [[(0, 2)], [(0, 1)], [(1, 2)]]


def test_vllm_v0_restarts_the_latest_job_when_blocks_run_out() -> None:
    """Five blocks: after both prompts one is free, A takes it, B is restarted and prefills three tokens."""
    jobs, batches = run("vllm_v0", (0, 2, 3), (0, 2, 2), limits=replace(LIMITS, kv_blocks=5))
    assert batches == [[(0, 2), (1, 2)], [(0, 1)], [(0, 1)], [(1, 3)]]
    assert [job.restarts for job in jobs] == [0, 1]


def test_a_prompt_that_never_fits_is_rejected_and_the_others_go_on() -> None:
    """Five tokens are more than vLLM v0's batches of four."""
    scheduler = SCHEDULERS["vllm_v0"](LIMITS)
    jobs = [Job(0, 0.0, 5, 1), Job(1, 0.0, 4, 1)]
    run_jobs(jobs, [scheduler], OneSecondAToken(), 1)
    assert [job.finished for job in jobs] == [False, True]
    assert scheduler.rejected == [jobs[0]]


@pytest.mark.parametrize("policy", list(SCHEDULERS))
def test_every_job_is_served_in_full_by_every_policy(policy: str) -> None:
    rows = [(float(i), 1 + i % 4, 1 + i % 7) for i in range(40)]
    jobs, batches = run(policy, *rows)
    assert all(job.finished for job in jobs)
    assert all(
        job.arrived_s <= job.scheduled_s < job.first_token_s <= job.finished_s for job in jobs
    )
    tokens = [0] * len(rows)
    for batch in batches:
        for number, count in batch:
            tokens[number] += count
    assert tokens == [prompt + output - 1 for _, prompt, output in rows]


def test_two_stages_hold_two_batches() -> None:
    """A 0-2 in stage 0, 2-4 in stage 1; B 2-4, 4-6; A's next token enters at 4 and leaves behind B."""
    limits = replace(LIMITS, num_stages=2)
    jobs, _ = run("sarathi", (0, 2, 2), (1, 2, 1), limits=limits)
    assert [job.finished_s for job in jobs] == [7, 6]
