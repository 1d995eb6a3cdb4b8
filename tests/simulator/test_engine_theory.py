"""Anchors outside the project: with one request at a time the engine is a textbook queue."""

from __future__ import annotations

from dataclasses import replace
from math import factorial

import numpy as np
import pytest
from engine_cases import tables_of

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.metrics import Window, value
from servecast.simulator.traffic.workload import Workload

REQUESTS, RUNS = 20_000, 40
MAX_TOKENS = 4000
SERVICE_S = 1e-3  # of one token
FLEET = Fleet(
    tables_of(max_batched_tokens=MAX_TOKENS, max_num_seqs=1, per_token_s=SERVICE_S),
    EngineLimits(max_num_seqs=1, max_batched_tokens=MAX_TOKENS, kv_blocks=MAX_TOKENS),
)


def mean_waits(
    lengths: list[np.ndarray], load: float, rng: np.random.Generator, fleet: Fleet = FLEET
) -> np.ndarray:
    """Mean queue delay of each run, in seconds, without the first tenth of its time."""
    engine, waits = Engine(), []
    for prompts in lengths:
        gap_s = prompts.mean() * SERVICE_S / load
        arrival_s = np.cumsum(rng.exponential(gap_s, REQUESTS))
        workload = Workload("queue", arrival_s, prompts, np.ones(REQUESTS, np.int64))
        records = engine.run(workload, fleet)
        waits.append(value(records, "queue_delay", None, Window(arrival_s[-1] / 10)))
    return np.array(waits)


def assert_mean(found: np.ndarray, expected: float) -> None:
    standard_error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 4 * standard_error
    assert standard_error < 0.05 * expected


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_constant_work_waits_as_long_as_md1_says(load: float) -> None:
    rng = np.random.default_rng(1)
    prompts = [np.full(REQUESTS, 100) for _ in range(RUNS)]
    expected = load * 100 * SERVICE_S / (2 * (1 - load))
    assert_mean(mean_waits(prompts, load, rng), expected)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_memoryless_work_waits_as_long_as_mm1_says(load: float) -> None:
    """Geometric lengths, by Pollaczek and Khinchine: half a token below the exponential law."""
    rng = np.random.default_rng(2)
    prompts = [np.minimum(rng.geometric(0.01, REQUESTS), MAX_TOKENS) for _ in range(RUNS)]
    every = np.concatenate(prompts)
    second_moment = float((every.astype(float) ** 2).mean() * SERVICE_S**2)
    rate_per_s = load / (every.mean() * SERVICE_S)
    expected = rate_per_s * second_moment / (2 * (1 - load))
    assert expected == pytest.approx(load * 0.1 / (1 - load), rel=0.02)
    assert_mean(mean_waits(prompts, load, rng), expected)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (5, 0.8)])
def test_one_queue_for_several_replicas_waits_as_long_as_mmc_says(
    servers: int, load: float
) -> None:
    """Erlang's C, with work in tokens that is close to the exponential law."""
    rng = np.random.default_rng(4)
    fleet = replace(FLEET, replicas=servers, router="deferred:limit=1")
    prompts = [np.minimum(rng.geometric(0.01, REQUESTS), MAX_TOKENS) for _ in range(RUNS)]
    erlangs = servers * load
    busy = erlangs**servers / factorial(servers) / (1 - load)
    all_busy = busy / (busy + sum(erlangs**k / factorial(k) for k in range(servers)))
    mean_s = np.concatenate(prompts).mean() * SERVICE_S
    expected = all_busy * mean_s / (servers * (1 - load))
    assert_mean(mean_waits(prompts, load * servers, rng, fleet), expected)


def test_the_time_requests_spend_is_the_number_present_over_time() -> None:
    """Little's law, in one run, to rounding."""
    rng = np.random.default_rng(3)
    arrival_s = np.cumsum(rng.exponential(0.2, REQUESTS))
    lengths = rng.integers(1, 200, REQUESTS)
    records = Engine().run(Workload("queue", arrival_s, lengths, np.ones(REQUESTS, int)), FLEET)
    times = np.concatenate((arrival_s, records.finish_s))
    order = np.argsort(times)
    present = np.cumsum(np.repeat([1, -1], REQUESTS)[order])[:-1]
    area = (present * np.diff(times[order])).sum()
    assert area == pytest.approx(value(records, "e2e", None) * REQUESTS, rel=1e-9)
