"""Recordings with anything in the place of anything: read, or refused in one sentence that names the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.run import MeasuredRun

ODD: tuple[Any, ...] = (None, True, -1, 2.5, 1e300, float("nan"), "", "x", [], {}, [None], {"a": 1})

VLLM_BENCH = {
    "input_lens": [9, 9],
    "output_lens": [3, 3],
    "ttfts": [0.1, 0.2],
    "itls": [[0.01, 0.01], [0.01, 0.01]],
    "start_times": [5.0, 6.0],
}
GUIDELLM_REQUEST = {
    "time_to_first_token_ms": 100.0,
    "request_latency": 1.0,
    "request_start_time": 5.0,
    "inter_token_latency_ms": 10.0,
    "prompt_tokens": 9,
    "output_tokens": 3,
}
GUIDELLM = {
    "benchmarks": [
        {"requests": {"successful": [GUIDELLM_REQUEST] * 2, "incomplete": [], "errored": []}}
    ]
}
AIPERF = {
    "metadata": {"request_start_ns": 5, "benchmark_phase": "profiling"},
    "metrics": {
        "time_to_first_token": {"value": 100.0},
        "request_latency": {"value": 1000.0},
        "input_sequence_length": {"value": 9},
        "output_sequence_length": {"value": 3},
    },
}
INFERENCE_PERF = [
    {
        "start_time": 5.0,
        "info": {"output_token_times": [5.1, 5.2, 5.3], "output_tokens": 3, "input_tokens": 9},
    }
]
HISTOGRAMS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "time_to_first_token_seconds",
)
PROMETHEUS = {
    "status": "success",
    "data": {
        "resultType": "matrix",
        "result": [
            {
                "metric": {"__name__": f"vllm:{name}", **dict(labels)},
                "values": [[0, "0"], [1, "30"]],
            }
            for name, labels in [
                *((f"{name}_bucket", (("le", "10"),)) for name in HISTOGRAMS),
                ("request_success_total", ()),
                ("num_requests_running", ()),
                ("cache_config_info", (("num_gpu_blocks", "7"),)),
            ]
        ],
    },
}
RECORDINGS: dict[str, Any] = {
    "bench.json": VLLM_BENCH,
    "guidellm.json": GUIDELLM,
    "profile_export.jsonl": AIPERF,
    "per_request_lifecycle_metrics.json": INFERENCE_PERF,
    "range.json": PROMETHEUS,
}


def places(found: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON, that to itself first."""
    yield here
    if isinstance(found, dict | list):
        for key in found if isinstance(found, dict) else range(len(found)):
            yield from places(found[key], (*here, key))


def damaged(found: Any) -> Iterator[Any]:
    """With one value replaced, or left out, each in turn."""
    for place in places(found):
        for odd in ODD:
            yield changed(found, place, odd)
        if place and isinstance(place[-1], str):
            lacking = copy.deepcopy(found)
            inner(lacking, place[:-1]).pop(place[-1])
            yield lacking


def changed(found: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    other = copy.deepcopy(found)
    inner(other, place[:-1])[place[-1]] = odd
    return other


def inner(found: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        found = found[key]
    return found


@pytest.mark.parametrize("name", RECORDINGS)
def test_whatever_a_recording_holds_it_is_read_or_refused_in_one_sentence(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(RECORDINGS[name]))
    assert len(read_run(path).workload) > 0
    refusals = []
    for found in damaged(RECORDINGS[name]):
        path.write_text(json.dumps(found))
        told = read_or_refused(path)
        if isinstance(told, str):
            refusals.append(told)
    assert len(refusals) > 20
    for told in refusals:
        assert told.startswith(str(path)), told
        assert "\n" not in told
        assert not {"NoneType", "operand", "subscriptable"} & set(told.split()), told


def read_or_refused(path: Path) -> MeasuredRun | str:
    try:
        return read_run(path)
    except UserError as error:
        return str(error)


META = {
    "engine_kwargs": {"max_num_seqs": 4, "tensor_parallel_size": 2, "enable_expert_parallel": True},
    "kv_cache": {"num_gpu_blocks": 10, "enable_prefix_caching": False},
    "resolved_config": {"scheduler_config": {"async_scheduling": False}},
    "vllm_version": "0.19.0",
}


def test_whatever_a_llmservingsim_recording_tells_of_its_engine(tmp_path: Path) -> None:
    columns = "arrival_s,prompt_tokens,output_tokens,ttft_s\n"
    (tmp_path / "requests.csv").write_text(f"{columns}0,9,3,0.1\n")
    for found in damaged(META):
        (tmp_path / "meta.json").write_text(json.dumps(found))
        told = read_or_refused(tmp_path)
        if isinstance(told, str):
            assert told.startswith(str(tmp_path / "meta.json")), told
        else:
            assert all(isinstance(v, int) and v > 0 for v in told.settings.values()), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "timeseries.csv: t None is not a number"),
        ("t,running,waiting\n1\n", "timeseries.csv: running None is not a number"),
        ("t,running,waiting\nx,1,2\n", "timeseries.csv: t 'x' is not a number"),
    ],
)
def test_a_damaged_curve_is_refused(tmp_path: Path, text: str, message: str) -> None:
    columns = "arrival_s,prompt_tokens,output_tokens,ttft_s\n"
    (tmp_path / "requests.csv").write_text(f"{columns}0,9,3,0.1\n")
    (tmp_path / "meta.json").write_text(json.dumps(META))
    (tmp_path / "timeseries.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path)
