"""Which resource a configuration is said to be short of at its capacity."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.rows import short_resource

LIMITS = EngineLimits(max_num_seqs=100, max_batched_tokens=2048, kv_blocks=1000)
AT_EASE = {"busy": 0.5, "mean_batch": 20.0, "kv_use_mean": 0.3, "kv_use_peak": 0.6}


@pytest.mark.parametrize(
    ("told", "resource"),
    [
        ({}, "latency"),
        ({"busy": 0.98}, "gpu"),
        ({"mean_batch": 97.0, "busy": 0.98}, "max_num_seqs"),
        ({"preemptions": 1, "busy": 0.98}, "kv_blocks"),
        ({"kv_use_mean": 0.9, "kv_use_peak": 1.0, "busy": 0.98}, "kv_blocks"),
        ({"kv_use_peak": 0.97, "busy": 0.98}, "gpu"),  # once; more memory would bring nothing
        ({"kv_use_peak": 0.97}, "kv_blocks"),
    ],
)
def test_what_binds_is_what_more_of_would_help(told: dict[str, Any], resource: str) -> None:
    every = dict.fromkeys((each.name for each in fields(ReplicaMetrics)), 0)
    metrics = ReplicaMetrics(**{**every, **AT_EASE, **told})
    assert short_resource(LIMITS, metrics)["resource"] == resource
