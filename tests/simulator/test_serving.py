"""One configuration run and judged, with prefill and decode together or apart."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import random_case, tables_of, workload_of

from servecast.compiler.service import Slo
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.disaggregation import Disaggregated, KvLink
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import attained_share
from servecast.simulator.search.capacity import Judge, violations
from servecast.simulator.search.serving import run, seconds_by_source, summary

LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=16, kv_blocks=100, block_tokens=1)
LINK = KvLink(kv_bytes_per_token=1.0, bytes_per_s=4.0)


def apart(prefill: int = 1, decode: int = 1) -> Disaggregated:
    """One second a token."""
    return Disaggregated(
        Fleet(tables_of(), LIMITS, prefill), Fleet(tables_of(), LIMITS, decode), LINK
    )


def test_a_run_apart_worked_by_hand() -> None:
    """0-4 prompt, 4-5 over the link, 5-6 and 6-7 the other two tokens: of 7 seconds one pool worked 4,
    the other 2."""
    found = summary(run(Engine(compiled=False), workload_of((0, 4, 3)), apart()))
    assert (found.ttft_s.p50, found.e2e_s.p50, found.tbt_s.max) == (4, 7, 2)
    assert (found.duration_s, found.num_finished, found.num_rejected) == (7, 1, 0)
    assert found.busy == pytest.approx((4 / 7 + 2 / 7) / 2)
    assert found.kv_use_peak == pytest.approx(6 / 100)


def test_idle_replicas_count_in_what_is_busy() -> None:
    found = summary(run(Engine(compiled=False), workload_of((0, 4, 3)), apart(decode=3)))
    assert found.busy == pytest.approx((4 / 7 + 2 / 7) / 4)


def test_every_second_of_both_pools_has_a_source() -> None:
    serving, engine = apart(), Engine(compiled=False)
    found = run(engine, workload_of((0, 4, 3)), serving)
    assert set(dict(seconds_by_source(serving, found))) == set(
        dict(
            seconds_by_source(serving.prefill, run(engine, workload_of((0, 4, 1)), serving.prefill))
        )
    )


def test_a_judge_finds_what_a_whole_run_shows() -> None:
    """Whichever pool it is that a run is given up in."""
    engine, broken = Engine(), 0
    for seed in range(60):
        workload, fleet = random_case(seed)
        serving = Disaggregated(fleet, fleet, LINK)
        for metric in ("ttft", "tbt", "tpot", "e2e"):
            slos = (Slo(metric, 90, 3.0 + seed % 7),)
            judge = Judge(workload, slos, engine)
            whole = judge.records(serving)
            if whole.rejected.any():
                assert judge.broken(serving) != ()
                continue
            asked = (*slos, Slo("queue_delay", 99, 5.0))
            shown = {v.slo.metric for v in violations(whole, asked, workload)}
            judged = judge.broken(serving)
            assert isinstance(judged, tuple)
            assert bool(judged) == bool(shown)
            assert {slo.metric for slo in judged} <= shown
            broken += bool(shown)
    assert 30 < broken < 230


def test_the_share_in_time_is_of_the_whole_life() -> None:
    """TTFT 4 and 8, finish 7 and more."""
    traffic = workload_of((0, 4, 3), (1, 4, 3))
    found = run(Engine(compiled=False), traffic, apart())
    assert attained_share(found, (Slo("ttft", 90, 4.0),), traffic) == 0.5
    assert attained_share(found, (Slo("e2e", 90, 7.0),), traffic) == 0.5
    assert attained_share(found, (Slo("e2e", 90, 6.9),), traffic) == 0.0
    assert np.isfinite(found.finish_s).all()
