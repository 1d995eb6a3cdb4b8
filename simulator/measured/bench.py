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
from servecast.simulator.measured.json_parts import list_at, object_at
from servecast.simulator.measured.run import (
    NO_FIRST_TOKEN,
    MeasuredRequest,
    MeasuredRun,
    columns,
    json_object,
    read_json,
    streamed,
)
from servecast.simulator.traffic.trace_fields import FieldError, finite_number, tokens
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

    gaps_s: list[float] = []

    def outcome(index: int, row: Record) -> Outcome:
        if not row["output_lens"] or not row["ttfts"]:
            return RejectedRow(index, NO_FIRST_TOKEN)
        ttft_s, output = (
            finite_number("ttfts", row["ttfts"]),
            tokens("output_lens", row["output_lens"]),
        )
        gaps = [finite_number("itls", gap) for gap in list_at("itls", row["itls"])]
        gaps_s.extend(gaps)
        start_s, prompt = (
            finite_number("start_times", row["start_times"]),
            tokens("input_lens", row["input_lens"]),
        )
        latencies_s = streamed(ttft_s, ttft_s + sum(gaps), output)
        return MeasuredRequest(index, start_s, prompt, output, latencies_s)

    rows = [dict(zip(keys, values, strict=True)) for values in zip(*arrays, strict=True)]
    run = _run(path, "vllm-bench", rows, outcome)
    return MeasuredRun(run.workload, run.clock, run.latencies_s, np.array(gaps_s))


def read_guidellm(path: Path) -> MeasuredRun:
    """``guidellm`` JSON: the requests of its benchmark (src/guidellm/schemas/request_stats.py).

    Raises:
        UserError: it holds several benchmarks, or a field is missing.
    """
    served, failed = _guidellm_requests(path)

    def outcome(index: int, row: Record) -> Outcome:
        if index >= len(served) or row.get("time_to_first_token_ms") is None:
            return RejectedRow(index, NO_FIRST_TOKEN)
        told = _numbers(row, "time_to_first_token_ms", "request_latency", "request_start_time")
        ttft_ms, e2e_s, start_s = told
        output = tokens("output_tokens", row["output_tokens"])
        latencies_s = streamed(ttft_ms / MS_PER_S, e2e_s, output)
        if row.get("inter_token_latency_ms") is not None:
            # To the last token, not to the stream's end.
            latencies_s["tpot"] = _numbers(row, "inter_token_latency_ms")[0] / MS_PER_S
        prompt = tokens("prompt_tokens", row["prompt_tokens"])
        return MeasuredRequest(index, start_s, prompt, output, latencies_s)

    return _run(path, "guidellm", [*served, *failed], outcome)


def _guidellm_requests(path: Path) -> tuple[list[Any], list[Any]]:
    """Those that were served, and those that were not."""
    try:
        benchmarks = list_at("benchmarks", json_object(path)["benchmarks"])
        if len(benchmarks) != 1:
            raise UserError(
                f"{path}: holds {len(benchmarks)} benchmarks, and one run is one load;"
                " save each to its own file"
            )
        found = object_at("requests", object_at("benchmarks[0]", benchmarks[0]).get("requests"))
        served = list_at("successful", found.get("successful"))
        failed = [found.get(name) or [] for name in ("incomplete", "errored")]
        return served, [row for rows in failed for row in list_at("failed requests", rows)]
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None


def read_aiperf(path: Path) -> MeasuredRun:
    """aiperf's ``profile_export.jsonl`` (docs/tutorials/working-with-profile-exports.md).

    Raises:
        UserError: a line is no record.
    """
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            try:
                row = object_at("the line", json.loads(line))
                metadata = object_at("metadata", row.get("metadata") or {})
            except ValueError as error:
                raise UserError(f"{path}:{number}: is no record of aiperf: {error}") from error
            if metadata.get("benchmark_phase") != "warmup":
                rows.append({**row, "metadata": metadata, "line": number})

    def outcome(index: int, row: Record) -> Outcome:
        told = object_at("metrics", row.get("metrics") or {})
        metrics = {name: object_at(name, found).get("value") for name, found in told.items()}
        if row.get("error") or "time_to_first_token" not in metrics:
            return RejectedRow(row["line"], NO_FIRST_TOKEN)
        ttft_ms, e2e_ms = _numbers(metrics, "time_to_first_token", "request_latency")
        prompt, output = (
            tokens(name, metrics[name])
            for name in ("input_sequence_length", "output_sequence_length")
        )
        start_s = _numbers(row["metadata"], "request_start_ns")[0] / NS_PER_S
        latencies_s = streamed(ttft_ms / MS_PER_S, e2e_ms / MS_PER_S, output)
        return MeasuredRequest(row["line"], start_s, prompt, output, latencies_s)

    return _run(path, "aiperf", rows, outcome)


def read_inference_perf(path: Path) -> MeasuredRun:
    """inference-perf's ``per_request_lifecycle_metrics.json``: a list, times in seconds.

    Raises:
        UserError: a field is missing.
    """
    rows = read_json(path)

    def outcome(index: int, row: Record) -> Outcome:
        info = object_at("info", row.get("info") or {})
        times = list_at("output_token_times", info.get("output_token_times") or [])
        if row.get("error") or not times:
            return RejectedRow(index, NO_FIRST_TOKEN)
        first_s, last_s = (finite_number("output_token_times", times[at]) for at in (0, -1))
        output = tokens("output_tokens", info["output_tokens"] or len(times))
        start_s = _numbers(row, "start_time")[0]
        latencies_s = streamed(first_s - start_s, last_s - start_s, output)
        prompt = tokens("input_tokens", info["input_tokens"])
        return MeasuredRequest(index, start_s, prompt, output, latencies_s)

    return _run(path, "inference-perf", rows, outcome)


def _numbers(row: Record, *names: str) -> list[float]:
    """Raises: KeyError, FieldError."""
    return [finite_number(name, row[name]) for name in names]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text: {error}") from error


def _run(
    path: Path,
    format_name: str,
    rows: Iterable[Record],
    outcome: Callable[[int, Record], Outcome],
) -> MeasuredRun:
    """Raises UserError: a record is none, lacks a field, or one is not what it should be."""
    requests: list[MeasuredRequest] = []
    rejected: list[RejectedRow] = []
    for index, row in enumerate(rows):
        try:
            found = outcome(index, object_at("it", row))
        except KeyError as error:
            raise UserError(f"{path}: record {index}: lacks {error.args[0]}") from None
        except FieldError as error:
            raise UserError(f"{path}: record {index}: {error}") from None
        if isinstance(found, RejectedRow):
            rejected.append(found)
        else:
            requests.append(found)
    workload, latencies_s = columns(path, format_name, requests, rejected)
    return MeasuredRun(workload, "client", latencies_s)
