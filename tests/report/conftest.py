"""The example as fixtures, as it is and with all that a result may hold."""

from __future__ import annotations

from typing import Any

import pytest
from example_result import example_result


@pytest.fixture(scope="session")
def pristine() -> dict[str, Any]:
    """The example, not to be changed."""
    return example_result()


@pytest.fixture
def result() -> dict[str, Any]:
    """The example, to be changed at will."""
    return example_result()


@pytest.fixture
def full(result: dict[str, Any]) -> dict[str, Any]:
    """The example with all that a result may hold beside: intervals, histograms, prices, sensitivity."""
    lengths = {"edges": [10.0, 100.0, 1000.0, 10000.0], "counts": [200, 1500, 300]}
    result["workload"] |= {
        "arrivals": {"window_s": 10.0, "counts": [120, 140, 90, 0, 160]},
        "prompt_histogram": lengths,
        "output_histogram": lengths,
    }
    result["best"]["intervals"] = {"ttft_s": {"p50": [0.17, 0.2], "p90": [1.4, 1.7]}}
    points = [
        {
            "limit_s": limit_s,
            "usd_per_million_output_tokens": price,
            "at_most": limit_s > 2,
            "configuration": "l40s tp1",
        }
        for limit_s, price in ((0.5, None), (1.0, 0.3), (2.0, 0.2), (4.0, 0.1))
    ]
    result["sensitivity"] = {
        "slo_cost": [{"slo": "ttft p90", "points": points}],
        "tornado": [
            {"input": "operator times", "low": 0.9, "high": 1.1, "at_low": 0.19, "at_high": 0.22},
            {"input": "prompt length", "low": 0.8, "high": 1.25, "at_low": 0.15, "at_high": 0.3},
        ],
        "tornado_base": 0.2,
        "tornado_unit": "usd_per_million_output_tokens",
    }
    result["explanation"] = {
        "request_time": {"queue": 0.1, "prefill": 0.2, "decode": 0.7},
        "gpu_time": {"prefill": 0.4, "decode_weights": 0.5, "idle": 0.1},
        "shadow_prices": [{"text": "10% more time to the first token: 2% more requests."}],
    }
    result["ties"] = [{"rank": 2, "text": "The second would be told apart by a longer trace."}]
    return result
