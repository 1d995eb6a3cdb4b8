"""What load generators write, one record a request, all on the client's clock.

A request that failed has no first token; it is left out and told, by its number in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.measured.run import (
    NO_FIRST_TOKEN,
    MeasuredRequest,
    MeasuredRun,
    columns,
    json_object,
    read_json,
    streamed,
)
from servecast.simulator.traffic.workload import RejectedRow

NS_PER_S, MS_PER_S = 1e9, 1e3
Record = Mapping[str, Any]
Outcome = MeasuredRequest | RejectedRow


def read_vllm_bench(path: Path) -> MeasuredRun:
    """``vllm bench serve --save-result --save-detailed``: arrays of seconds. The arrays' names are vLLM's
    (vllm/benchmarks/serve.py).

    Raises:
        UserError: an array is missing or not as long as the others.
    """
    found = json_object(path)
    keys = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
    missing = [key for key in keys if not isinstance(found.get(key), list)]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; record with --save-detailed")
    arrays = [found[key] for key in keys]
    if len({len(array) for array in arrays}) > 1:
        raise UserError(f"{path}: {', '.join(keys)} differ in length")

    def outcome(index: int, row: Record) -> Outcome:
        prompt, output, ttft_s, itls, start_s = row["values"]
        if not output or not ttft_s:
            return RejectedRow(index, NO_FIRST_TOKEN)
        latencies_s = streamed(ttft_s, ttft_s + sum(itls), output)
        return MeasuredRequest(index, start_s, prompt, output, latencies_s)

    rows = [{"values": values} for values in zip(*arrays, strict=True)]
    run = _run(path, "vllm-bench", rows, outcome)
    served = [itls for output, ttft_s, itls in zip(*arrays[1:4], strict=True) if output and ttft_s]
    gaps = np.array([gap for itls in served for gap in itls])
    return MeasuredRun(run.workload, run.clock, run.latencies_s, gaps)


def read_guidellm(path: Path) -> MeasuredRun:
    """``guidellm`` JSON: the requests of its benchmark (src/guidellm/schemas/request_stats.py).

    Raises:
        UserError: it holds several benchmarks, or a field is missing.
    """
    benchmarks = json_object(path)["benchmarks"]
    if len(benchmarks) != 1:
        raise UserError(
            f"{path}: holds {len(benchmarks)} benchmarks, and one run is one load; save each to its own file"
        )
    found = benchmarks[0]["requests"]
    failed = [*found.get("incomplete", ()), *found.get("errored", ())]

    def outcome(index: int, row: Record) -> Outcome:
        ttft_ms = row.get("time_to_first_token_ms")
        if index >= len(found["successful"]) or ttft_ms is None:
            return RejectedRow(index, NO_FIRST_TOKEN)
        latencies_s = streamed(ttft_ms / MS_PER_S, row["request_latency"], row["output_tokens"])
        if (
            row.get("inter_token_latency_ms") is not None
        ):  # to the last token, not to the stream's end
            latencies_s["tpot"] = row["inter_token_latency_ms"] / MS_PER_S
        start_s = row["request_start_time"]
        prompt, output = row["prompt_tokens"], row["output_tokens"]
        return MeasuredRequest(index, start_s, prompt, output, latencies_s)

    return _run(path, "guidellm", [*found["successful"], *failed], outcome)


def read_aiperf(path: Path) -> MeasuredRun:
    """aiperf's ``profile_export.jsonl`` (docs/tutorials/working-with-profile-exports.md).

    Raises:
        UserError: a line is no record.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                rows.append({"line": number, **json.loads(line)})
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}:{number}: is no JSON object: {error}") from error

    def outcome(index: int, row: Record) -> Outcome:
        metrics = {name: found["value"] for name, found in (row.get("metrics") or {}).items()}
        if row.get("error") or "time_to_first_token" not in metrics:
            return RejectedRow(row["line"], NO_FIRST_TOKEN)
        ttft_s = metrics["time_to_first_token"] / MS_PER_S
        output = metrics["output_sequence_length"]
        latencies_s = streamed(ttft_s, metrics["request_latency"] / MS_PER_S, output)
        start_s = row["metadata"]["request_start_ns"] / NS_PER_S
        prompt = metrics["input_sequence_length"]
        return MeasuredRequest(row["line"], start_s, prompt, output, latencies_s)

    measured = [r for r in rows if r.get("metadata", {}).get("benchmark_phase") != "warmup"]
    return _run(path, "aiperf", measured, outcome)


def read_inference_perf(path: Path) -> MeasuredRun:
    """inference-perf's ``per_request_lifecycle_metrics.json``: a list, times in seconds.

    Raises:
        UserError: a field is missing.
    """
    rows = read_json(path)

    def outcome(index: int, row: Record) -> Outcome:
        times = (row.get("info") or {}).get("output_token_times") or []
        if row.get("error") or not times:
            return RejectedRow(index, NO_FIRST_TOKEN)
        output = row["info"]["output_tokens"] or len(times)
        start_s = row["start_time"]
        latencies_s = streamed(times[0] - start_s, times[-1] - start_s, output)
        return MeasuredRequest(index, start_s, row["info"]["input_tokens"], output, latencies_s)

    return _run(path, "inference-perf", rows, outcome)


def _run(
    path: Path,
    format_name: str,
    rows: Iterable[Record],
    outcome: Callable[[int, Record], Outcome],
) -> MeasuredRun:
    """Raises UserError: a record lacks a field, or one is not a number."""
    requests: list[MeasuredRequest] = []
    rejected: list[RejectedRow] = []
    for index, row in enumerate(rows):
        try:
            found = outcome(index, row)
        except KeyError as error:
            raise UserError(f"{path}: record {index}: lacks {error.args[0]}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: record {index}: {error}") from None
        if isinstance(found, RejectedRow):
            rejected.append(found)
        else:
            requests.append(found)
    workload, latencies_s = columns(path, format_name, requests, rejected)
    return MeasuredRun(workload, "client", latencies_s)
