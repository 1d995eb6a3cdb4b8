"""Recordings of load generators and of Prometheus, in the very shape that those tools write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.run import MeasuredRun


def saved(tmp_path: Path, name: str, content: Any) -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def guidellm_request(start_s: float, ttft_ms: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "type_": "generative_request_stats",
        "request_id": "a",
        "request_start_time": start_s,
        "request_end_time": start_s + 1.5,
        "request_latency": 1.5,
        "prompt_tokens": 100,
        "output_tokens": 11,
        "time_to_first_token_ms": ttft_ms,
        "time_per_output_token_ms": 136.4,
        "inter_token_latency_ms": 100.0,
        **changes,
    }


def test_guidellms_requests_are_read_and_its_errored_ones_told(tmp_path: Path) -> None:
    requests = {
        "successful": [guidellm_request(1001.0, 400.0), guidellm_request(1000.0, 500.0)],
        "incomplete": [guidellm_request(1002.0, None)],
        "errored": [],
    }
    path = saved(tmp_path, "g.json", {"metadata": {}, "benchmarks": [{"requests": requests}]})
    run = read_run(path)
    assert run.clock == "client"
    assert run.workload.arrival_s.tolist() == [0, 1]
    assert run.latencies_s["ttft"].tolist() == [0.5, 0.4]
    assert run.latencies_s["tpot"].tolist() == [0.1, 0.1]
    assert run.workload.origin is not None
    assert [row.line for row in run.workload.origin.rejected] == [2]


def test_a_sweep_of_guidellm_is_no_single_run(tmp_path: Path) -> None:
    path = saved(tmp_path, "g.json", {"benchmarks": [{"requests": {}}, {"requests": {}}]})
    with pytest.raises(UserError, match="holds 2 benchmarks, and one run is one load"):
        read_run(path)


def aiperf_record(start_ns: int, **changes: Any) -> str:
    metrics = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "time_to_first_token": {"value": 255.9, "unit": "ms"},
        "request_latency": {"value": 297.5, "unit": "ms"},
        "inter_chunk_latency": {"value": [4.9, 5.3], "unit": "ms"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "inter_token_latency": {"value": 5.2, "unit": "ms"},
    }
    metadata = {"session_num": 45, "request_start_ns": start_ns, "benchmark_phase": "profiling"}
    return json.dumps({"metadata": metadata, "metrics": metrics, "error": None} | changes)


def test_aiperfs_records_are_read_line_by_line(tmp_path: Path) -> None:
    failed = aiperf_record(
        1759813207000000000,
        metrics={"error_isl": {"value": 550, "unit": "tokens"}},
        error={"code": 499, "type": "RequestCancellationError", "message": "cancelled"},
    )
    lines = [aiperf_record(1759813209000000000), failed, "", aiperf_record(1759813208000000000)]
    run = read_run(saved(tmp_path, "profile_export.jsonl", "\n".join(lines)))
    assert run.workload.arrival_s.tolist() == [0, 1]
    assert run.workload.where(0).endswith("profile_export.jsonl:4")
    assert run.workload.prompt_tokens.tolist() == [550, 550]
    assert run.latencies_s["e2e"][0] == pytest.approx(0.2975)
    assert run.latencies_s["tpot"][0] == pytest.approx((0.2975 - 0.2559) / 8)
    assert run.workload.origin is not None
    assert [row.line for row in run.workload.origin.rejected] == [2]


def test_aiperfs_summary_is_refused_with_the_file_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"statistics alone; give profile_export.jsonl beside it"):
        read_run(saved(tmp_path, "profile_export_aiperf.json", {"request_latency": {"avg": 1}}))


def test_inference_perfs_requests_are_read(tmp_path: Path) -> None:
    info = {"input_tokens": 20, "output_tokens": 3, "output_token_times": [10.5, 10.6, 10.8]}
    done = {"start_time": 10.0, "end_time": 10.9, "request": "", "info": info, "error": None}
    error = {"error_type": "ClientError", "error_msg": "gone"}
    failed = {"start_time": 10.0, "end_time": 10.9, "info": info, "error": error}
    run = read_run(saved(tmp_path, "per_request_lifecycle_metrics.json", [done, failed]))
    assert run.latencies_s["ttft"].tolist() == [pytest.approx(0.5)]
    assert run.latencies_s["tpot"].tolist() == [pytest.approx(0.15)]
    assert run.workload.origin is not None
    assert [row.line for row in run.workload.origin.rejected] == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{}\nnonsense\n", r"a.jsonl:2: is no record of aiperf"),
        (
            "a.jsonl",
            aiperf_record(0, metadata={}),
            r"a.jsonl: record 0: lacks request_start_ns",
        ),
        (
            "i.json",
            [{"start_time": 0.0, "info": {"output_token_times": [1.0]}}],
            r"i.json: record 0: lacks output_tokens",
        ),
        (
            "i.json",
            [{"start_time": "soon", "info": {"output_token_times": [1], "output_tokens": 1}}],
            r"i.json: record 0: start_time 'soon' is not a number",
        ),
        ("g.json", {"benchmarks": [{"requests": {"successful": []}}]}, "no finished request"),
    ],
)
def test_a_damaged_recording_is_refused_with_its_record(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_run(saved(tmp_path, name, content))


def series(name: str, values: list[float], **labels: str) -> dict[str, Any]:
    points = [[100.0 + 10 * i, str(value)] for i, value in enumerate(values)]
    return {"metric": {"__name__": name, "model_name": "m", **labels}, "values": points}


def prometheus(tmp_path: Path, *more: dict[str, Any]) -> MeasuredRun:
    """40 requests in two scrapes: half below 0.1 s, all below 0.2 s; prompts of 128 at most."""
    result = [
        series("vllm:request_success_total", [5, 25, 45], finished_reason="length"),
        series("vllm:time_to_first_token_seconds_bucket", [1, 11, 21], le="0.1"),
        series("vllm:time_to_first_token_seconds_bucket", [2, 22, 42], le="0.2"),
        series("vllm:time_to_first_token_seconds_bucket", [2, 22, 42], le="+Inf"),
        series("vllm:request_prompt_tokens_bucket", [0, 20, 40], le="128.0"),
        series("vllm:request_generation_tokens_bucket", [0, 20, 40], le="50.0"),
        series("vllm:num_requests_running", [3, 4, 5]),
        series("vllm:cache_config_info", [1, 1, 1], num_gpu_blocks="2588", block_size="16"),
        *more,
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    return read_run(saved(tmp_path, "p.json", answer))


def test_prometheus_range_data_is_a_run_of_as_many_requests_as_finished(tmp_path: Path) -> None:
    run = prometheus(tmp_path)
    assert (run.clock, run.engine, run.settings) == ("server", "vllm", {"kv_blocks": 2588})
    assert len(run.workload) == 40
    assert np.median(run.latencies_s["ttft"]) == pytest.approx(0.1, abs=0.005)
    assert run.latencies_s["ttft"].max() < 0.2
    assert 60 < run.workload.prompt_tokens.mean() < 68
    assert 19 < run.workload.span_s < 20
    running = run.curves["running"]
    assert running.requests.tolist() == [3, 4, 5]
    assert np.diff(running.at_s).tolist() == [10, 10]
    assert set(run.curves) == {"running"}  # nobody scraped the other
    assert "drawn" in run.notes[0]


def test_a_restarted_servers_counters_begin_again(tmp_path: Path) -> None:
    again = series("vllm:request_success_total", [5, 2, 6], finished_reason="stop")
    assert len(prometheus(tmp_path, again).workload) == 46


def test_an_instant_query_is_no_range_data(tmp_path: Path) -> None:
    answer = {"status": "success", "data": {"resultType": "vector", "result": []}}
    with pytest.raises(UserError, match="is vector, not range data; ask /api/v1/query_range"):
        read_run(saved(tmp_path, "p.json", answer))


def test_prometheus_without_a_needed_histogram_is_refused(tmp_path: Path) -> None:
    rows = [series("vllm:request_success_total", [0, 100])]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": rows}}
    with pytest.raises(UserError, match=r"lacks vllm:request_prompt_tokens_bucket"):
        read_run(saved(tmp_path, "p.json", answer))


def test_prompts_of_a_llmservingsim_recording_tell_shared_prefixes(tmp_path: Path) -> None:
    """Both prompts begin with the same 16 tokens, and differ in the second block."""
    prompts = [list(range(33)), [*range(16), *range(50, 70)]]
    (tmp_path / "workloads").mkdir()
    with gzip.open(tmp_path / "workloads" / "two.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"input_tok_ids": prompt}) + "\n" for prompt in prompts)
    folder = tmp_path / "run"
    folder.mkdir()
    meta = {"dataset_path": "workloads/two.jsonl", "vllm_version": "0.19.0"}
    (folder / "meta.json").write_text(json.dumps(meta))
    header = "arrival_s,input_tokens,output_tokens,ttft_s\n"
    (folder / "requests.csv").write_text(f"{header}0,33,2,0.1\n1,36,2,0.1\n")
    run = read_run(folder)
    assert (run.engine, run.engine_version) == ("vllm", "0.19.0")
    assert run.workload.prefix is not None
    assert run.workload.prefix.ids.tolist() == [0, 1, 0, 2]
    assert run.workload.prefix.offsets.tolist() == [0, 2, 4]
    (folder / "requests.csv").write_text(f"{header}0,33,2,0.1\n1,35,2,0.1\n")
    with pytest.raises(UserError, match="its prompts are not those of run"):
        read_run(folder)
