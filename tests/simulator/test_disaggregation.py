"""Prefill and decode on replicas of their own, worked by hand and by law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.errors import UserError
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.disaggregation import (
    Disaggregated,
    DisaggregatedRun,
    KvLink,
    run_disaggregated,
    through_link,
)
from servecast.simulator.engine.prefix_path import prefix_blocks
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.disaggregated import pool_samples
from servecast.simulator.traffic.workload import Workload

LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=16, kv_blocks=100, block_tokens=1)
QUARTER_SECOND_A_TOKEN = KvLink(kv_bytes_per_token=1.0, bytes_per_s=4.0, latency_s=0.5)
NO_LINK = KvLink(kv_bytes_per_token=1.0, bytes_per_s=float("inf"))


def run(workload: Workload, link: KvLink, limits: EngineLimits = LIMITS) -> DisaggregatedRun:
    """One second a token in both fleets of one replica."""
    fleet = Fleet(tables_of(), limits)
    return run_disaggregated(Engine(compiled=False), workload, Disaggregated(fleet, fleet, link))


def test_a_request_is_prefilled_sent_and_decoded() -> None:
    """0-4 prompt; one second and a half over the link; 5.5-6.5 and 6.5-7.5 the other two tokens."""
    found = run(workload_of((0, 4, 3)), QUARTER_SECOND_A_TOKEN)
    assert found.transfer_s.tolist() == [1.5]
    assert found.finish_s.tolist() == [7.5]
    assert pool_samples(found, "ttft").repeated().tolist() == [4]
    assert pool_samples(found, "e2e").repeated().tolist() == [7.5]
    assert pool_samples(found, "tpot").repeated().tolist() == [1.75]
    assert pool_samples(found, "tbt").repeated().tolist() == [1, 2.5]


def test_prefill_replicas_find_prefixes_and_all_kv_is_sent() -> None:
    """B's prompt is A's: three of its four tokens are there, the fourth takes 4-5. Both are sent whole."""
    workload = workload_of((0, 4, 2), (4, 4, 2))
    workload = replace(workload, prefix=prefix_blocks([[1, 2, 3, 4]] * 2, 1))
    caching = replace(LIMITS, prefix_caching=True)
    fleets = Disaggregated(
        Fleet(tables_of(), caching), Fleet(tables_of(), LIMITS), QUARTER_SECOND_A_TOKEN
    )
    found = run_disaggregated(Engine(compiled=False), workload, fleets)
    assert found.prefill.first_token_s.tolist() == [4, 5]
    assert found.prefill.prefix_hit_tokens is not None
    assert found.prefill.prefix_hit_tokens.tolist() == [0, 3]
    assert found.transfer_s.tolist() == [1.5, 1.5]
    apart = run(workload, QUARTER_SECOND_A_TOKEN, replace(LIMITS, prefix_caching=False))
    assert apart.prefill.first_token_s.tolist() == [4, 8]


def test_a_link_sends_one_request_after_the_other() -> None:
    """Both have their first token at 8; A is sent in 8-9, B in 9-10."""
    found = run(workload_of((0, 4, 2), (0, 4, 2)), QUARTER_SECOND_A_TOKEN)
    assert found.transfer_s.tolist() == [1.5, 2.5]


def test_every_prefill_replica_has_a_link() -> None:
    fleet = Fleet(tables_of(), LIMITS, replicas=2)
    workload = workload_of((0, 4, 2), (0, 4, 2))
    found = run_disaggregated(
        Engine(compiled=False), workload, Disaggregated(fleet, fleet, QUARTER_SECOND_A_TOKEN)
    )
    assert found.transfer_s.tolist() == [1.5, 1.5]


def test_a_shared_link_sends_one_request_of_all_replicas_after_the_other() -> None:
    fleet = Fleet(tables_of(), LIMITS, replicas=2)
    link = replace(QUARTER_SECOND_A_TOKEN, shared=True)
    workload = workload_of((0, 4, 2), (0, 4, 2))
    found = run_disaggregated(Engine(compiled=False), workload, Disaggregated(fleet, fleet, link))
    assert found.transfer_s.tolist() == [1.5, 2.5]


def test_layers_leave_while_the_prefill_runs() -> None:
    """0-4 prompt in four layers: the first three are across at 3.25, the last at 4.25. Over a link of eight
    seconds the first leaves at 1, and the last is across at 9."""
    link = replace(QUARTER_SECOND_A_TOKEN, layers=4)
    assert run(workload_of((0, 4, 2)), link).transfer_s.tolist() == [0.25 + 0.5]
    slow = replace(link, bytes_per_s=0.5)
    assert run(workload_of((0, 4, 2)), slow).transfer_s.tolist() == [5 + 0.5]


def test_each_role_has_the_tables_of_its_own_gpu() -> None:
    """Prefill on a fast GPU: 0-2. Decode on a slow one: 2-3 and 3-4."""
    fast, slow = (Fleet(tables_of(per_token_s=s), LIMITS) for s in (0.5, 1.0))
    engine = Engine(compiled=False)
    found = run_disaggregated(engine, workload_of((0, 4, 3)), Disaggregated(fast, slow, NO_LINK))
    assert found.finish_s.tolist() == [4]


def test_decodes_are_not_delayed_by_prefills() -> None:
    """B's long prompt arrives while A decodes; A's gaps stay one second."""
    found = run(workload_of((0, 2, 9), (3, 16, 1)), NO_LINK)
    assert pool_samples(found, "tbt").repeated().tolist() == [1] * 8


def test_one_token_needs_no_decode_replica() -> None:
    found = run(workload_of((0, 2, 1)), NO_LINK)
    assert found.finish_s.tolist() == [2]
    assert found.decode is None
    assert pool_samples(found, "tbt").total == 0


def test_a_request_too_long_for_the_decode_replicas_is_rejected() -> None:
    """98 tokens of prompt fit; with four more they do not."""
    found = run(workload_of((0, 98, 5), (0, 5, 2)), NO_LINK)
    assert found.rejected.tolist() == [True, False]
    assert np.isnan(found.finish_s).tolist() == [True, False]


def test_every_request_is_served_or_rejected_and_no_time_goes_back() -> None:
    engine = Engine()
    for seed in range(150):
        workload, fleet = random_case(seed)
        found = run_disaggregated(
            engine, workload, Disaggregated(fleet, fleet, QUARTER_SECOND_A_TOKEN)
        )
        assert np.array_equal(np.isfinite(found.finish_s), ~found.rejected)
        served = np.isfinite(found.finish_s)
        assert (found.finish_s >= found.prefill.first_token_s)[served].all()
        gaps = workload.output_tokens[served].sum() - served.sum()
        assert pool_samples(found, "tbt").total == gaps


def test_a_link_without_bandwidth_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a KV link of 0 bytes/s and 0 s latency: the bandwidth"):
        KvLink(kv_bytes_per_token=1.0, bytes_per_s=0.0)
    with pytest.raises(UserError, match=r"^a KV link of 0 layers: there must be 1 or more$"):
        KvLink(kv_bytes_per_token=1.0, bytes_per_s=1.0, layers=0)


def test_a_run_is_given_up_as_soon_as_too_many_are_late_and_only_then() -> None:
    """Both first tokens come at 8, the second ones at 10; the decode replica has two gaps of two seconds."""
    fleet = Fleet(tables_of(), LIMITS)
    asked = Disaggregated(fleet, fleet, NO_LINK)
    workload, engine = workload_of((0, 4, 3), (0, 4, 3)), Engine(compiled=False)
    for late, metric in (
        (LateTargets(ttft_s=7.9, max_late_ttft=1), "ttft"),
        (LateTargets(ttft_s=7.9, max_late_ttft=2), None),
        (LateTargets(tbt_s=1.9, max_late_gaps=1), "tbt"),
        (LateTargets(tbt_s=2.0, max_late_gaps=1), None),
    ):
        assert run_disaggregated(engine, workload, asked, late).broken_metric == metric


def test_whoever_waits_for_a_decode_replica_waits_in_the_queue() -> None:
    """First tokens come at 2; the one place of the decode replica is A's until 4, and B's from then on."""
    prefill = Fleet(tables_of(), LIMITS)
    decode = Fleet(tables_of(), replace(LIMITS, max_num_seqs=1))
    asked = Disaggregated(prefill, decode, NO_LINK)
    workload, engine = workload_of((0, 1, 3), (0, 1, 3)), Engine(compiled=False)
    found = run_disaggregated(engine, workload, asked)
    assert pool_samples(found, "queue_delay").repeated().tolist() == [0, 2]
    assert pool_samples(found, "ttft").repeated().tolist() == [2, 2]
    late = LateTargets(queue_delay_s=1.9)
    assert run_disaggregated(engine, workload, asked, late).broken_metric == "queue_delay"
    late = LateTargets(queue_delay_s=2.0)
    assert run_disaggregated(engine, workload, asked, late).broken_metric is None


def test_tokens_that_are_loaded_before_need_no_prefill() -> None:
    """Three of the prompt's four tokens are there: its first token comes after 1 second."""
    fleet = Fleet(tables_of(), LIMITS)
    asked = Disaggregated(fleet, fleet, NO_LINK)
    workload, engine = workload_of((0, 4, 2)), Engine(compiled=False)
    found = run_disaggregated(engine, workload, asked, loaded_tokens=np.array([3]))
    assert pool_samples(found, "ttft").repeated().tolist() == [1]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_a_link_is_the_queue_that_one_request_after_the_other_makes(
    sent: list[tuple[int, int]],
) -> None:
    """Layer by layer: a request is across behind the one before it, its first layer, and its last."""
    sent.sort()
    ready_s, busy_s = np.array(sent, float).T
    free_s, expected = 0.0, []
    for ready, busy in zip(ready_s, busy_s, strict=True):
        free_s = max(max(free_s, ready - 0.5) + busy, ready + busy / 2)
        expected.append(free_s)
    assert through_link(ready_s - 0.5, ready_s, busy_s, layers=2).tolist() == expected
