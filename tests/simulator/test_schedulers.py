"""Older engines' policies, by schedules worked by hand: a step takes one second a token."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType

import pytest

from servecast.simulator.engine.scheduling import Batch, Job
from servecast.simulator.reference.block_scheduler import SchedulerLimits
from servecast.simulator.reference.object_engine import run_jobs
from servecast.simulator.reference.schedulers import SCHEDULERS
from servecast.simulator.reference.sglang_scheduler import PrefixCache
from servecast.simulator.reference.vllm_v1_scheduler import VllmV1, Vtc

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
    policy: str,
    *rows: tuple[float, int, int],
    limits: SchedulerLimits = LIMITS,
    clients: Sequence[int] = (),
    prefixes: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
    **options: float,
) -> tuple[list[Job], list[list[tuple[int, int]]]]:
    """Jobs of (arrival, prompt, output), and of each batch the jobs and their tokens."""
    jobs = [
        Job(n, *row, key=n, client=clients[n] if clients else 0, prefix=prefixes.get(n, ()))
        for n, row in enumerate(rows)
    ]
    scheduler = SCHEDULERS[policy](limits, **options)
    batches = run_jobs(jobs, [scheduler], OneSecondAToken(), limits.num_stages)
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


def test_vllm_v0_swaps_the_latest_job_out_and_back_before_any_prompt() -> None:
    """As above, with host memory: B's two blocks go out in the step that A's token needs them, at a second
    each, and come back when A is done; C, which came in between, waits for B."""
    limits = replace(LIMITS, kv_blocks=5)
    options = {"swap_blocks": 2, "swap_us_per_block": 1e6}
    jobs, batches = run("vllm_v0", (0, 2, 3), (0, 2, 2), (4, 2, 1), limits=limits, **options)
    assert batches == [[(0, 2), (1, 2)], [(0, 1)], [(0, 1)], [(1, 1)], [(2, 2)]]
    assert [job.finished_s for job in jobs] == [8, 11, 13]
    assert [(job.restarts, job.preemptions) for job in jobs] == [(0, 0), (0, 1), (0, 0)]


def test_vllm_v0_swaps_a_job_in_beside_the_decodes_of_the_same_step() -> None:
    """Seven blocks. 0-6: three prompts. A's token takes the last block, so C's two go out for B's: 6-10, two
    tokens and two seconds of swapping. A is done, four blocks are free: B takes one, C two and one for its
    token, in one step, 10-14."""
    limits = replace(LIMITS, max_num_seqs=3, max_batched_tokens=6, kv_blocks=7)
    options = {"swap_blocks": 2, "swap_us_per_block": 1e6}
    jobs, batches = run("vllm_v0", (0, 2, 2), (0, 2, 3), (0, 2, 2), limits=limits, **options)
    assert batches == [[(0, 2), (1, 2), (2, 2)], [(0, 1), (1, 1)], [(1, 1), (2, 1)]]
    assert [job.finished_s for job in jobs] == [10, 14, 14]


def test_lightllm_admits_what_the_cache_holds_at_the_worst_moment() -> None:
    """At most 3 tokens out, 9 in the cache. A and B would come to 2 + 2 + 2 * 2 = 8, with C to 12. So C waits
    for both."""
    limits = replace(LIMITS, max_num_seqs=3, max_batched_tokens=8, kv_blocks=9)
    limits = replace(limits, declared_output_tokens=3)
    jobs, batches = run("lightllm", (0, 2, 3), (0, 2, 3), (0, 2, 1), limits=limits, wait_steps=1)
    assert batches == [[(0, 2), (1, 2)], [(0, 1), (1, 1)], [(0, 1), (1, 1)], [(2, 2)]]
    assert sum(job.preemptions for job in jobs) == 0


def test_lightllm_looks_for_prompts_only_after_some_decodes() -> None:
    """B arrives at once after A's prompt, and waits for two of A's tokens."""
    limits = replace(LIMITS, declared_output_tokens=5)
    _, batches = run("lightllm", (0, 2, 5), (1, 1, 1), limits=limits, wait_steps=2)
    assert batches == [[(0, 2)], [(0, 1)], [(0, 1)], [(1, 1)], [(0, 1)], [(0, 1)]]


SGLANG = replace(
    LIMITS, max_num_seqs=8, max_batched_tokens=8, kv_blocks=40, declared_output_tokens=4
)


def test_sglang_runs_prompts_before_decodes_and_cuts_the_one_over_the_budget() -> None:
    """B's ten tokens are two chunks, in batches of their own, while A waits for its second token."""
    _, batches = run("sglang", (0, 2, 3), (1, 10, 1), limits=SGLANG)
    assert batches == [[(0, 2)], [(1, 8)], [(1, 2)], [(0, 1)], [(0, 1)]]


def test_sglang_mixes_decodes_into_the_prompts_batch_where_asked() -> None:
    """Beside A's token there are seven tokens for B, then three."""
    _, batches = run("sglang", (0, 2, 4), (1, 10, 1), limits=SGLANG, mixed_chunk=1)
    assert batches == [[(0, 2)], [(1, 7), (0, 1)], [(1, 3), (0, 1)], [(0, 1)]]


def test_sglang_takes_the_longest_cached_prefix_first_and_skips_it() -> None:
    """A's prompt is four blocks 1 2 3 4. C has the first three, so it overtakes B and computes one token."""
    prefixes = {0: (1, 2, 3, 4), 2: (1, 2, 3, 9)}
    _, batches = run("sglang", (0, 4, 1), (1, 4, 1), (1, 4, 1), limits=SGLANG, prefixes=prefixes)
    assert batches == [[(0, 4)], [(2, 1), (1, 4)]]


def test_a_radix_cache_loses_the_leaf_that_was_used_longest_ago() -> None:
    """Texts 1 2 3 and 1 2 4 in blocks of four tokens. The first was used before the second, so its leaf 3
    goes, then 4; then 2, which has no child any more, and 1 last. A block that is held stays."""
    cache = PrefixCache(4)
    for text in ((1, 2, 3), (1, 2, 4)):
        cache.hold(text)
        cache.let_go(text)
    assert cache.unused_tokens == 16
    assert (cache.evict(1), cache.match((1, 2, 3)), cache.match((1, 2, 4))) == (4, 2, 3)
    assert (cache.evict(5), sorted(cache.users)) == (8, [1])
    assert cache.hold((1, 5)) == 1
    assert (cache.evict(4), sorted(cache.users), cache.unused_tokens) == (0, [1, 5], 0)


def test_a_radix_cache_drops_what_a_list_by_last_use_would() -> None:
    """Against the blocks in the order of their last use, looked through from the beginning."""
    rng, cache = Random(1), PrefixCache(1)
    users: OrderedDict[int, int] = OrderedDict()
    held: list[tuple[int, ...]] = []
    for _ in range(3000):
        if held and rng.random() < 0.45:
            blocks = held.pop(rng.randrange(len(held)))
            cache.let_go(blocks)
            for block in blocks:
                users[block] -= 1
        elif rng.random() < 0.3:
            gone = [b for b, count in users.items() if count == 0][: rng.randrange(1, 5)]
            wanted = len(gone) or 1
            assert cache.evict(wanted) == len(gone)
            for block in gone:
                del users[block]
        else:
            text = rng.randrange(4)
            held.append(tuple(10 * text + k for k in range(rng.randrange(1, 8))))
            cache.hold(held[-1])
            for block in reversed(held[-1]):
                users[block] = users.get(block, 0) + 1
                users.move_to_end(block)
        assert cache.users == users
        assert cache.num_unused == sum(count == 0 for count in users.values())


def test_sglang_retracts_those_with_the_fewest_tokens_when_decodes_find_no_memory() -> None:
    """Thirteen tokens of memory. A and B hold 4 + 4, one is left after two steps. B, as short as A and behind
    it, goes; its 4 + 3 tokens are computed again when A is done."""
    limits = replace(SGLANG, kv_blocks=13)
    jobs, batches = run("sglang", (0, 4, 4), (0, 4, 4), limits=limits, conservativeness=0.1)
    both = [(0, 1), (1, 1)]
    assert batches == [[(0, 4)], [(1, 4)], both, both, [(0, 1)], [(1, 7)]]
    assert [job.preemptions for job in jobs] == [0, 1]


def test_sglang_retracts_the_job_with_fewer_tokens_though_its_prompt_is_shorter() -> None:
    """B comes two steps later than A."""
    limits = replace(SGLANG, kv_blocks=14, declared_output_tokens=6)
    rows = ((0.0, 4, 6), (5.0, 2, 6))
    jobs, _ = run("sglang", *rows, limits=limits, conservativeness=0.1)
    assert [job.preemptions for job in jobs] == [0, 1]


def test_trtllm_max_utilization_pauses_the_request_started_last() -> None:
    """Five blocks: after both prompts one is free, A takes it, B goes and computes its three tokens again."""
    limits = replace(LIMITS, kv_blocks=5)
    jobs, batches = run("trtllm_max_utilization", (0, 2, 3), (0, 2, 2), limits=limits)
    assert batches == [[(0, 2), (1, 2)], [(0, 1)], [(0, 1)], [(1, 3)]]
    assert [job.preemptions for job in jobs] == [0, 1]


def test_trtllm_takes_a_context_whole_unless_it_may_be_cut() -> None:
    """A budget of four: beside A's token B's four do not fit, three of them do."""
    rows = ((0.0, 2, 3), (1.0, 4, 1))
    _, whole = run("trtllm_max_utilization", *rows)
    assert whole == [[(0, 2)], [(0, 1)], [(0, 1)], [(1, 4)]]
    _, cut = run("trtllm_max_utilization", *rows, chunked_context=1)
    assert cut == [[(0, 2)], [(0, 1), (1, 3)], [(0, 1), (1, 1)]]


def test_trtllm_guaranteed_no_evict_keeps_room_for_all_that_was_admitted() -> None:
    """A prompt of two and at most three tokens out need four blocks; seven hold one such request."""
    limits = replace(LIMITS, kv_blocks=7, declared_output_tokens=3)
    jobs, batches = run("trtllm_no_evict", (0, 2, 3), (0, 2, 2), limits=limits)
    assert batches == [[(0, 2)], [(0, 1)], [(0, 1)], [(1, 2)], [(1, 1)]]
    assert sum(job.preemptions for job in jobs) == 0


def test_a_long_prefill_leaves_the_rest_of_the_budget_to_others() -> None:
    """A budget of four and at most two tokens of a prompt a step: A and B share each step."""
    scheduler = VllmV1(LIMITS, long_prefill_threshold=2)
    jobs = [Job(0, 0.0, 5, 1, key=0), Job(1, 0.0, 3, 1, key=1)]
    batches = run_jobs(jobs, [scheduler], OneSecondAToken(), 1)
    chunks = [[(job.number, tokens) for job, tokens in batch.jobs] for batch in batches]
    assert chunks == [[(0, 2), (1, 2)], [(0, 2), (1, 1)], [(0, 1)]]


def test_a_long_prefill_that_is_alone_takes_the_whole_budget() -> None:
    """Four of A's seven; then B is there, and each gets two."""
    scheduler = VllmV1(LIMITS, long_prefill_threshold=2)
    jobs = [Job(0, 0.0, 7, 1, key=0), Job(1, 1.0, 3, 1, key=1)]
    batches = run_jobs(jobs, [scheduler], OneSecondAToken(), 1)
    chunks = [[(job.number, tokens) for job, tokens in batch.jobs] for batch in batches]
    assert chunks == [[(0, 4)], [(0, 2), (1, 2)], [(0, 1), (1, 1)]]


def test_vtc_counts_a_prompt_once_though_it_is_recomputed() -> None:
    """Client 1's request is preempted: 2 for its prompt and 2 for each of 2 tokens, as if it were not."""
    scheduler = Vtc(replace(LIMITS, kv_blocks=5))
    jobs = [Job(0, 0.0, 2, 3, key=0, client=0), Job(1, 0.0, 2, 2, key=1, client=1)]
    run_jobs(jobs, [scheduler], OneSecondAToken(), 1)
    assert jobs[1].preemptions == 1
    assert scheduler.service == {0: 2 + 2 * 3, 1: 2 + 2 * 2}


def test_vtc_serves_the_client_with_the_least_service_first() -> None:
    """One sequence at a time. A costs client 0 four for its prompt; client 1 comes and is lifted to that;
    A's token makes client 0's six. So C is next, which makes client 1's seven, then B, then D and E."""
    limits = replace(LIMITS, max_num_seqs=1)
    rows = ((0.0, 4, 1), (0.0, 4, 1), (1.0, 1, 1), (1.0, 1, 1), (1.0, 1, 1))
    _, batches = run("vtc", *rows, limits=limits, clients=(0, 0, 1, 1, 1))
    assert batches == [[(0, 4)], [(2, 1)], [(1, 4)], [(3, 1)], [(4, 1)]]


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
