"""Policies by name: each serves everything it can, and those of both engines give the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_cases import check_invariants, random_case, same_outcome, tables_of, workload_of

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.orders import ORDERS, ranks
from servecast.simulator.engine.policy import POLICIES, keyword_parameters, parse_policy
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routers import ROUTERS
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import samples, summarise
from servecast.simulator.reference.schedulers import SCHEDULERS
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

NO_LIMIT = "long_prefill_threshold=1000"  # above every budget here: changes nothing but the engine


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("order", list(ORDERS))
def test_an_order_of_service_gives_the_same_run_on_both_engines(engine: Engine, order: str) -> None:
    for seed in range(0, 120, 2):  # those without scheduling ahead
        workload, fleet = case(seed)
        fast = engine.run(workload, replace(fleet, policy=order)).copy()
        slow = engine.run(workload, replace(fleet, policy=f"{order}:{NO_LIMIT}"))
        assert not parse_policy(f"{order}:{NO_LIMIT}").is_compiled
        assert same_outcome(fast, slow)
        check_invariants(slow)


def case(seed: int) -> tuple[Workload, Fleet]:
    """One stage, without what classes have not: scheduling ahead (odd seeds) and vLLM's prefix cache."""
    workload, fleet = random_case(seed, stages=1)
    return workload, replace(fleet, limits=replace(fleet.limits, prefix_caching=False))


def test_closed_loop_clients_give_the_same_run_on_both_engines(engine: Engine) -> None:
    for seed in range(0, 80, 2):
        workload, fleet = case(seed)
        clients = {"concurrency": 1 + seed % 7, "client_s": 0.5 * (seed % 3)}
        fleet = replace(fleet, replicas=1, router="round_robin", policy="vllm_v1")
        fast = engine.run(workload, fleet, **clients).copy()
        slow = engine.run(workload, replace(fleet, policy=f"vllm_v1:{NO_LIMIT}"), **clients)
        assert same_outcome(fast, slow)
        assert np.array_equal(fast.arrival_s, slow.arrival_s)


def with_labels(workload: Workload, seed: int) -> Workload:
    """Three clients, and prompts of which some begin alike."""
    rng = np.random.default_rng(seed)
    blocks = workload.prompt_tokens // 4
    offsets = np.concatenate(([0], np.cumsum(blocks)))
    family = np.repeat(rng.integers(0, 3, len(workload)), blocks)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], blocks)
    prefix = PrefixBlocks(4, offsets, 100 * family + place)
    return replace(workload, client=rng.integers(0, 3, len(workload)), prefix=prefix)


@pytest.mark.parametrize("policy", list(SCHEDULERS))
def test_every_request_is_served_in_full_or_rejected(engine: Engine, policy: str) -> None:
    served = 0
    for seed in range(0, 80, 2):
        workload, fleet = case(seed)
        records = engine.run(with_labels(workload, seed), replace(fleet, policy=policy))
        check_invariants(records)
        served += int(records.finished.sum())
    assert served > 200


@pytest.mark.parametrize("policy", ["vtc", "sglang", "vllm_v0", "vllm_v1:long_prefill_threshold=3"])
def test_gaps_between_tokens_are_those_of_the_token_times(engine: Engine, policy: str) -> None:
    for seed in range(0, 40, 2):
        workload, fleet = case(seed)
        records = engine.run(workload, replace(fleet, policy=policy))
        gaps = np.concatenate([np.diff(times) for times in records.token_times()])
        assert samples(records, "tbt").repeated() == pytest.approx(np.sort(gaps))


def test_a_policy_is_its_name_and_what_was_said() -> None:
    policy = parse_policy("lightllm:wait_steps=3,reserve=0.5")
    assert policy.parameters == {"wait_steps": 3, "reserve": 0.5}
    assert str(policy) == "lightllm:reserve=0.5,wait_steps=3"
    assert str(parse_policy("vllm_v1")) == "vllm_v1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vlm_v1", r"^policy 'vlm_v1' is not one of vllm_v1, .*did you mean"),
        ("orca:wait=3", r"^policy 'orca:wait=3': no parameter 'wait'; it takes none$"),
        (
            "lightllm:wait_step=3",
            r"no parameter 'wait_step' \(did you mean 'wait_steps'\?\); there are wait_steps, reserve$",
        ),
        ("lightllm:wait_steps=x", r"wait_steps must be a whole number, got 'x'$"),
        ("edf:ttft_s=-1", r"ttft_s must be 0 or more, got -1$"),
    ],
)
def test_policies_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_policy(text)


@pytest.mark.parametrize("kind", [POLICIES, ROUTERS])
def test_the_documentation_lists_every_policy_and_router_with_its_parameters(kind: Any) -> None:
    text = (Path(__file__).parents[2] / "docs/policies.md").read_text(encoding="utf-8")
    for name in kind:
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, name
        known = ROUTERS[name].parameters if kind is ROUTERS else keyword_parameters(kind[name])
        assert all(f"`{parameter}`" in rows[0] for parameter in known), name


LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=16, kv_blocks=100, block_tokens=1)


def test_a_class_policy_says_what_it_cannot_do() -> None:
    workload = workload_of((0, 1, 1))
    with pytest.raises(UserError, match=r"^policy 'sglang' with 2 pipeline stages: it needs one"):
        Engine(compiled=False).run(workload, Fleet(tables_of(2), LIMITS, policy="sglang"))
    caching = Fleet(tables_of(), replace(LIMITS, prefix_caching=True), policy="orca")
    with pytest.raises(
        UserError, match=r"^policy 'orca' with prefix_caching: it keeps no prefixes$"
    ):
        Engine(compiled=False).run(workload, caching)
    shared = replace(workload, prefix=PrefixBlocks(1, np.array([0, 1]), np.array([7])))
    with pytest.raises(
        UserError,
        match=r"^rows: policy 'orca' keeps no prefixes, and the prompts share some: say prefix",
    ):
        Engine(compiled=False).run(shared, Fleet(tables_of(), LIMITS, policy="orca"))
    fleet, loaded = Fleet(tables_of(), LIMITS, policy="orca"), np.array([1])
    with pytest.raises(
        UserError, match=r"^policy 'orca' with loaded_tokens: it keeps no prefixes$"
    ):
        Engine(compiled=False).run(workload_of((0, 2, 1)), fleet, loaded_tokens=loaded)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1e5])
def test_equal_keys_go_by_arrival_whole_numbers_or_not(scale: float) -> None:
    keys = np.random.default_rng(0).integers(-3, 4, 1000) * scale
    expected = sorted(range(1000), key=lambda i: (keys[i], i))
    assert np.argsort(ranks(keys)).tolist() == expected


def test_priority_classes_need_a_priority() -> None:
    with pytest.raises(UserError, match=r"^rows: policy 'priority' needs a trace with a priority"):
        Engine(compiled=False).run(
            workload_of((0, 1, 1)), Fleet(tables_of(), LIMITS, policy="priority")
        )


def one_at_a_time(policy: str, workload: Workload) -> list[float]:
    """When each is scheduled; one second a token."""
    fleet = Fleet(tables_of(), replace(LIMITS, max_num_seqs=1), policy=policy)
    return Engine(compiled=False).run(workload, fleet).scheduled_s.tolist()


def test_the_earliest_deadline_goes_first() -> None:
    """A 0-4. B is due at 1 + 1 + 6 = 8 and C at 3 + 1 + 2 = 6, if a prompt's tokens count: C 4-6, B 6-12. If
    they do not, B is due at 2 and C at 4."""
    workload = workload_of((0, 4, 1), (1, 6, 1), (3, 2, 1))
    assert one_at_a_time("edf:ttft_s=1,per_prompt_token_s=1", workload) == [0, 6, 4]
    assert one_at_a_time("edf:ttft_s=1", workload) == [0, 4, 10]


def test_a_class_goes_before_the_next_and_by_arrival_within() -> None:
    """A 0-4, of class 1 like B and D. C is of class 0: C 4-6, B 6-8, D 8-9."""
    workload = workload_of((0, 4, 1), (1, 2, 1), (2, 2, 1), (3, 1, 1))
    workload = replace(workload, priority=np.array([1, 1, 0, 1]))
    assert one_at_a_time("priority", workload) == [0, 6, 4, 8]


def test_a_missed_target_is_named_under_a_class_policy() -> None:
    """B waits 3 s behind A's prompt."""
    fleet = Fleet(tables_of(), replace(LIMITS, max_num_seqs=1), policy="vllm_v0")
    workload = workload_of((0, 3, 1), (0, 1, 1))
    records = Engine(compiled=False).run(workload, fleet, LateTargets(queue_delay_s=2.0))
    assert records.broken_metric == "queue_delay"
    assert (
        Engine(compiled=False).run(workload, fleet, LateTargets(ttft_s=4.0)).broken_metric is None
    )


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_policy_cannot_see_output_lengths(engine: Engine, policy: str) -> None:
    """Two workloads that differ in an output not yet over are scheduled alike until it is."""
    rows = [(0.0, 4, 20), (0.0, 2, 30), (1.0, 5, 25), (2.0, 3, 30)]
    fleet = Fleet(
        tables_of(), replace(LIMITS, kv_blocks=1000, max_batched_tokens=64), policy=policy
    )
    columns = {"client": np.array([0, 1, 0, 1]), "priority": np.array([1, 0, 1, 0])}
    other = [*rows[:2], (1.0, 5, 15), rows[3]]
    runs = [
        engine.run(replace(workload_of(*each), **columns), fleet).copy() for each in (rows, other)
    ]
    assert runs[0].steps[:12].tolist() == runs[1].steps[:12].tolist()
    assert np.array_equal(runs[0].first_token_s, runs[1].first_token_s)


def test_a_summary_of_a_class_policys_run_counts_everything(engine: Engine) -> None:
    workload, fleet = case(4)
    metrics = summarise(engine.run(workload, replace(fleet, policy="sarathi")))
    assert metrics.num_finished + metrics.num_rejected == len(workload)
    assert metrics.num_unfinished == 0


def test_a_prompt_that_is_never_cut_is_rejected_if_it_is_longer_than_a_step() -> None:
    """Seventeen tokens in steps of sixteen; who loses its output has it added to its prompt."""
    workload = workload_of((0, 17, 1), (0, 16, 3))
    for policy, rejected in (
        ("vllm_v0", [True, True]),
        ("trtllm_max_utilization", [True, True]),
        ("trtllm_no_evict", [True, False]),
        ("trtllm_no_evict:chunked_context=1", [False, False]),
        ("sglang", [False, False]),
    ):
        records = Engine(compiled=False).run(workload, Fleet(tables_of(), LIMITS, policy=policy))
        assert records.rejected.tolist() == rejected, policy
