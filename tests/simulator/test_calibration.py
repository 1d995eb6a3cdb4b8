"""Calibration: terms that a recording tells are found again, those that it does not are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from engine_cases import tables_of

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.measured.calibration import Fitted, Term, errors, fit
from servecast.simulator.measured.run import MeasuredRun
from servecast.simulator.measured.validate import predicted_latencies
from servecast.simulator.traffic.workload import Workload

ENGINE = Engine()
TERMS = (
    Term("matrix_factor", 1.0, 0.05),
    Term("attention_factor", 1.0, 0.05),
    Term("host_step_s", 0.0, 0.002),
    Term("client_s", 0.0, 0.05),
)


def kernels(per_token_s: float = 5e-5) -> RuntimeTables:
    """10 ms a step and so much a token; attention 1 us a cached token."""
    plain = tables_of(max_batched_tokens=512, max_num_seqs=64)
    tokens = 0.01 + per_token_s * np.arange(513)
    tokens[0] = 0.0
    decode = np.zeros((1, 65, 7))
    decode[0, 1:] = 1e-6 * 11 * np.arange(7)
    return replace(plain, token_s=tokens[None, :], decode_s=decode)


def workload(rate_per_s: float, seed: int = 0) -> Workload:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, 480))
    lengths = rng.integers(8, 200, 480), rng.integers(4, 60, 480)
    return Workload("made", arrival_s - arrival_s[0], *lengths)


def simulated(
    load: Workload, terms: Mapping[str, float], tables: RuntimeTables | None = None
) -> Records:
    terms = {term.name: term.value for term in TERMS} | dict(terms)
    told = (tables or kernels()).scaled(terms["matrix_factor"], terms["attention_factor"])
    told = replace(told, host_step_s=terms["host_step_s"])
    limits = EngineLimits(max_num_seqs=64, max_batched_tokens=512, kv_blocks=100_000)
    return ENGINE.run(load, Fleet(told, limits)).copy()


def recording(
    load: Workload, clock: str = "client", tables: RuntimeTables | None = None, **terms: float
) -> MeasuredRun:
    """What a client sees of an engine whose terms are these, with 1 % of noise."""
    told = {term.name: term.value for term in TERMS} | terms
    found = predicted_latencies(simulated(load, told, tables))
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, len(load)))
    latencies_s = {name: found[name] * noise for name in ("ttft", "tpot", "e2e")}
    for name in ("ttft", "e2e"):
        latencies_s[name] = latencies_s[name] + told["client_s"]
    return MeasuredRun(load, clock, latencies_s)


def fitted(run: MeasuredRun, *terms: Term) -> dict[str, Fitted]:
    found = fit(run, terms or TERMS, lambda values: simulated(run.workload, values))
    return {f.name: f for f in found}


def test_terms_that_moved_are_found_again_and_errors_vanish_on_requests_held_out() -> None:
    load = workload(rate_per_s=20.0)
    run = recording(load, matrix_factor=1.06, client_s=0.03)
    found = fitted(run, TERMS[0], TERMS[3])
    assert found["matrix_factor"].after == pytest.approx(1.06, abs=0.015)
    assert found["client_s"].after == pytest.approx(0.03, abs=0.005)
    after = {term.name: term.value for term in TERMS}
    before = errors(run, simulated(load, after), 0.0, held_out=True)
    after |= {name: f.after for name, f in found.items()}
    held_out = errors(run, simulated(load, after), after["client_s"], held_out=True)
    assert before["tpot"] < -0.04
    assert abs(held_out["tpot"]) < 0.01
    assert abs(held_out["ttft"]) < 0.03


def test_a_host_that_is_slower_is_told_from_kernels_that_are() -> None:
    """Few requests at a time: the step is short, and host time is a constant in it, kernels grow."""
    found = fitted(recording(workload(3.0), "server", host_step_s=0.004), TERMS[2])
    assert found["host_step_s"].after == pytest.approx(0.004, abs=0.0005)
    assert found["host_step_s"].sd < 0.001


def test_latencies_of_no_time_or_less_say_nothing_and_break_nothing() -> None:
    """Two clocks of one recording may disagree by a millisecond; a quiet server's queue takes none."""
    run = recording(workload(3.0))
    ttft_s = run.latencies_s["ttft"].copy()
    ttft_s[:10] = [0.0, -0.0005] * 5
    odd = {**run.latencies_s, "ttft": ttft_s, "queue_delay": np.zeros(len(ttft_s))}
    found = fitted(replace(run, latencies_s=odd), TERMS[3])
    assert found["client_s"].after == pytest.approx(
        fitted(run, TERMS[3])["client_s"].after, abs=0.01
    )
    told = errors(replace(run, latencies_s=odd), simulated(run.workload, {}), 0.0, held_out=True)
    assert set(told) == {"ttft", "tpot", "e2e"}
    assert np.isfinite(list(told.values())).all()


def test_terms_of_one_effect_are_refused_with_each_others_names() -> None:
    """A step is 10 ms whatever it holds: nobody can tell a factor on it from host time after it."""
    flat = kernels(per_token_s=0.0)
    flat = replace(flat, decode_s=0 * flat.decode_s)
    run = recording(workload(2.0), "server", flat, host_step_s=0.001)
    run = replace(run, latencies_s={"tpot": run.latencies_s["tpot"]})
    found = fit(run, (TERMS[0], TERMS[2]), lambda values: simulated(run.workload, values, flat))
    refused = [f for f in found if f.refused]
    assert len(refused) == 1
    assert "cannot tell it from" in refused[0].refused
    assert refused[0].after == refused[0].before


def test_what_the_recording_does_not_depend_on_stays() -> None:
    """Without long contexts attention takes no time worth a factor."""
    load = workload(5.0)
    short = Workload("short", load.arrival_s, np.full(480, 2), np.full(480, 3))
    found = fitted(recording(short, "server"), TERMS[1])
    assert found["attention_factor"].refused == "the recording hardly depends on it"
    assert found["attention_factor"].after == 1.0


def test_a_short_recording_is_refused() -> None:
    load = workload(5.0).first(95)
    with pytest.raises(UserError, match="made: 95 requests; calibrating takes at least 96"):
        fitted(recording(load))
