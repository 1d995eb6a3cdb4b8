"""Recordings of real engines: read whole, in order of arrival, each on its own clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.run import MeasuredRun

HEADER = "request_id,arrival_s,input_tokens,output_tokens,scheduled_s,ttft_s,tpot_s,e2e_s\n"


def folder(tmp_path: Path, rows: str, meta: dict[str, Any]) -> Path:
    (tmp_path / "requests.csv").write_text(HEADER + rows)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def bench(tmp_path: Path, **changes: Any) -> MeasuredRun:
    found = {
        "input_lens": [10, 20, 30],
        "output_lens": [3, 1, 0],
        "ttfts": [0.5, 0.25, 0.0],
        "itls": [[0.1, 0.3], [], []],
        "start_times": [101.0, 100.0, 102.0],
        **changes,
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return read_run(path)


def test_a_llmservingsim_recording_tells_its_engine(tmp_path: Path) -> None:
    meta = {
        "engine_kwargs": {
            "tensor_parallel_size": 2,
            "data_parallel_size": 1,
            "max_num_seqs": 128,
            "max_num_batched_tokens": 2048,
        },
        "kv_cache": {"num_gpu_blocks": 2588, "enable_prefix_caching": False},
    }
    run = read_run(folder(tmp_path, "b-0,0.5,10,3,0.6,0.4,0.05,0.9\n", meta))
    assert run.settings == {
        "tp": 2,
        "dp": 1,
        "max_num_seqs": 128,
        "max_batched_tokens": 2048,
        "kv_blocks": 2588,
    }
    assert (run.clock, run.notes, run.async_scheduling) == ("server", (), None)
    assert {name: values.tolist() for name, values in run.latencies_s.items()} == {
        "queue_delay": [pytest.approx(0.1)],
        "ttft": [0.4],
        "tpot": [0.05],
        "e2e": [0.9],
    }


def test_what_a_recording_leaves_open_is_noted(tmp_path: Path) -> None:
    meta = {"engine_kwargs": {"data_parallel_size": 2}}
    run = read_run(folder(tmp_path, "b-0,0.5,10,3,0.6,0.4,0.05,0.9\n", meta))
    assert run.settings == {"dp": 2}
    assert run.notes == (
        "the recording does not tell its KV blocks: the planned number is simulated",
        "the engine's prefix cache was on; its hits are not simulated",
    )


def test_requests_are_put_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,ttft_s\n9,1,1,0.9\n5,2,2,\n6,3,3,0.6\n")
    run = read_run(path)
    assert run.workload.arrival_s.tolist() == [0, 1, 4]
    assert run.workload.prompt_tokens.tolist() == [2, 3, 1]
    assert run.workload.where(0) == f"{path}:3"
    assert run.clock == "client"
    assert np.isnan(run.latencies_s["ttft"][0])
    assert run.latencies_s["ttft"][1:].tolist() == [0.6, 0.9]
    assert list(run.latencies_s) == ["ttft"]


def test_vllm_bench_records_gaps_and_failed_requests(tmp_path: Path) -> None:
    run = bench(tmp_path)
    assert run.workload.prompt_tokens.tolist() == [20, 10]
    assert run.workload.arrival_s.tolist() == [0, 1]
    assert run.latencies_s["e2e"].tolist() == [0.25, pytest.approx(0.9)]
    assert np.isnan(run.latencies_s["tpot"][0])
    assert run.latencies_s["tpot"][1] == pytest.approx(0.2)
    assert run.gaps_s is not None
    assert run.gaps_s.tolist() == [0.1, 0.3]
    assert run.workload.origin is not None
    assert [row.line for row in run.workload.origin.rejected] == [2]


def test_vllm_bench_without_details_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks itls, start_times; record with --save-detailed"):
        bench(tmp_path, itls=None, start_times=None)
    with pytest.raises(UserError, match="differ in length"):
        bench(tmp_path, ttfts=[0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_s,prompt_tokens,ttft_s\n", "run.csv:1: a recording needs output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n", "run.csv:1: a recording needs every latency"),
        ("arrival_s,prompt_tokens,output_tokens,e2e_s\n", "run.csv: there is no finished request"),
        (
            "arrival_s,prompt_tokens,output_tokens,e2e_s\n0,5,5,1\n0,5,5,soon\n",
            "run.csv:3: e2e_s 'soon' is not a number",
        ),
        (
            "arrival_s,prompt_tokens,output_tokens,e2e_s\n0,-5,5,1\n",
            "run.csv:2: prompt_tokens -5 is",
        ),
        ("arrival_s,prompt_tokens,output_tokens,e2e_s\n0\n", "run.csv:2: prompt_tokens is empty"),
    ],
)
def test_a_bad_recording_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(path)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is no recording known here: llmservingsim, aiperf, .*, csv"
    ):
        read_run(tmp_path)
    with pytest.raises(UserError, match="cannot be read: no such file or folder"):
        read_run(tmp_path / "none")
    (tmp_path / "meta.json").write_text("[]")
    (tmp_path / "requests.csv").write_text(HEADER + "b,0,1,1,0,1,1,1\n")
    with pytest.raises(UserError, match=r"meta.json: is a JSON list, not an object"):
        read_run(tmp_path)
    (tmp_path / "numbers.json").write_text("[1]")
    with pytest.raises(UserError, match=r"numbers.json: is a JSON list, not an object"):
        read_run(tmp_path / "numbers.json")


def test_an_answer_before_its_question_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,ttft_s\n0,10,3,0.1\n1,10,3,-0.1\n")
    with pytest.raises(UserError, match=r"run.csv:3: ttft_s must be 0 or more, got -0.1"):
        read_run(path)


@pytest.mark.parametrize(
    ("name", "kv_blocks"), [("RTX4090__Llama-3.1-8B", 2588), ("RTXPRO6000__Llama-3.1-8B", None)]
)
def test_the_public_recordings_are_read_whole(
    shared_data: Path, name: str, kv_blocks: int | None
) -> None:
    run = read_run(shared_data / "measured" / "llmservingsim-vllm-0.19" / name)
    assert len(run.workload) == 300
    assert set(run.latencies_s) == {"queue_delay", "ttft", "tpot", "e2e"}
    assert run.settings.get("kv_blocks") == kv_blocks
    assert run.async_scheduling == (True if kv_blocks else None)
