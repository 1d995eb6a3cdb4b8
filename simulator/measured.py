"""Recorded runs of real engines: what arrived, what each request was made to wait, on whose clock.

A reader is a function and a row in ``READERS``. A server's clock starts when the engine takes a request, a
client's when it sends one: their latencies are two different metrics and are never mixed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.trace_fields import FieldError, finite_number, tokens
from servecast.simulator.workload import Floats, RejectedRow, TraceOrigin, Workload

LATENCIES = ("queue_delay", "ttft", "tpot", "e2e")
Setting = int | str | bool


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """``latencies_s`` by metric, each [requests] in order of arrival, NaN where it was not recorded.

    ``settings`` are what the recording tells of the engine, by the names of `simulate.Setup`. ``gaps_s``
    are all gaps between tokens, of all requests; None where they were not recorded. With
    ``async_scheduling`` the engine prepared a step while the one before it ran; None: not told.
    """

    workload: Workload
    clock: str
    latencies_s: Mapping[str, Floats]
    gaps_s: Floats | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    async_scheduling: bool | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    line: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    latencies_s: Mapping[str, float]


def read_run(path: Path) -> MeasuredRun:
    """The run recorded in a file or a folder, by its shape.

    Raises:
        UserError: it is no recording known here, or a value in it is wrong, with its line.
    """
    try:
        for recognised, reader in READERS.values():
            if recognised(path):
                return reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not path.exists():
        raise UserError(f"{path}: cannot be read: no such file or folder")
    raise UserError(
        f"{path}: is no recording known here: {', '.join(READERS)}; see docs/validate.md"
    )


def _read_folder(path: Path) -> MeasuredRun:
    """LLMServingSim's recordings: requests.csv on the server's clock, meta.json with vLLM's settings."""
    requests, notes = _csv_requests(path / "requests.csv"), []
    meta = _json_object(path / "meta.json")
    asked = meta.get("engine_kwargs", {})
    settings: dict[str, Setting] = {
        ours: asked[theirs]
        for ours, theirs in (
            ("tp", "tensor_parallel_size"),
            ("max_num_seqs", "max_num_seqs"),
            ("max_batched_tokens", "max_num_batched_tokens"),
        )
        if theirs in asked
    }
    blocks = (meta.get("kv_cache") or {}).get("num_gpu_blocks")
    if blocks is None:
        notes.append("the recording does not tell its KV blocks: the planned number is simulated")
    else:
        settings["kv_blocks"] = blocks
    if asked.get("data_parallel_size", 1) > 1:
        notes.append(f"the engine ran {asked['data_parallel_size']} data-parallel ranks")
    if (meta.get("kv_cache") or {}).get("enable_prefix_caching", True):
        notes.append("the engine's prefix cache was on; its hits are not simulated")
    workload, latencies_s = _columns(path, "llmservingsim", requests)
    scheduler = (meta.get("resolved_config") or {}).get("scheduler_config") or {}
    return MeasuredRun(
        workload,
        "server",
        latencies_s,
        settings=settings,
        notes=tuple(notes),
        async_scheduling=scheduler.get("async_scheduling"),
    )


def _read_csv(path: Path) -> MeasuredRun:
    """Our own CSV: a trace with measured latencies in seconds beside the lengths, on the client's clock."""
    workload, latencies_s = _columns(path, "csv", _csv_requests(path))
    return MeasuredRun(workload, "client", latencies_s)


def _read_vllm_bench(path: Path) -> MeasuredRun:
    """``vllm bench serve --save-result --save-detailed``: arrays of seconds, on the client's clock.

    A request that failed has no first token; it is left out and told. The arrays' names are vLLM's
    (vllm/benchmarks/serve.py).
    """
    found = _json_object(path)
    keys = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
    missing = [key for key in keys if not isinstance(found.get(key), list)]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; record with --save-detailed")
    columns = [found[key] for key in keys]
    if len({len(column) for column in columns}) > 1:
        raise UserError(f"{path}: {', '.join(keys)} differ in length")
    requests: list[_Request] = []
    rejected: list[RejectedRow] = []
    gaps: list[float] = []
    for index, (prompt, output, ttft_s, itls, start_s) in enumerate(zip(*columns, strict=True)):
        if not output or not ttft_s:
            rejected.append(RejectedRow(index, "the request failed: it has no first token"))
            continue
        e2e_s = ttft_s + sum(itls)
        tpot_s = sum(itls) / (output - 1) if output > 1 else nan
        latencies_s = {"ttft": ttft_s, "tpot": tpot_s, "e2e": e2e_s}
        requests.append(_Request(index, start_s, prompt, output, latencies_s))
        gaps += itls
    workload, by_metric = _columns(path, "vllm-bench", requests, rejected)
    return MeasuredRun(workload, "client", by_metric, np.array(gaps))


Reader = tuple[Callable[[Path], bool], Callable[[Path], MeasuredRun]]

READERS: dict[str, Reader] = {
    "llmservingsim": (lambda path: (path / "meta.json").is_file(), _read_folder),
    "vllm-bench": (lambda path: path.suffix == ".json" and path.is_file(), _read_vllm_bench),
    "csv": (lambda path: path.is_file(), _read_csv),
}
"""By format: what recognises it, tried in order, and what reads it."""


def _csv_requests(path: Path) -> list[_Request]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        prompt = "input_tokens" if "input_tokens" in names else "prompt_tokens"
        needed = ("arrival_s", prompt, "output_tokens")
        missing = [name for name in needed if name not in names]
        if missing or not {f"{metric}_s" for metric in LATENCIES} & set(names):
            lacks = ", ".join(missing) or "every latency (ttft_s, tpot_s, e2e_s, queue_delay_s)"
            raise UserError(f"{path}:1: a recording needs {lacks}")
        return [
            _csv_request(path, reader.line_num, dict(zip(names, fields, strict=False)), prompt)
            for fields in reader
            if fields
        ]


def _csv_request(path: Path, line: int, fields: Mapping[str, str], prompt: str) -> _Request:
    try:
        arrival_s = finite_number("arrival_s", fields.get("arrival_s", ""))
        latencies_s = {
            metric: finite_number(f"{metric}_s", fields[f"{metric}_s"])
            for metric in LATENCIES
            if fields.get(f"{metric}_s")
        }
        if fields.get("scheduled_s") and "queue_delay" not in latencies_s:
            scheduled_s = finite_number("scheduled_s", fields["scheduled_s"])
            latencies_s["queue_delay"] = scheduled_s - arrival_s
        return _Request(
            line,
            arrival_s,
            tokens(prompt, fields.get(prompt, "")),
            tokens("output_tokens", fields.get("output_tokens", "")),
            latencies_s,
        )
    except FieldError as error:
        raise UserError(f"{path}:{line}: {error}") from None


def _columns(
    path: Path,
    format_name: str,
    requests: Sequence[_Request],
    rejected: Sequence[RejectedRow] = (),
) -> tuple[Workload, dict[str, Floats]]:
    """In order of arrival, whatever the order of recording; what nobody recorded is left out."""
    if not requests:
        raise UserError(f"{path}: there is no finished request in it")
    ordered = sorted(requests, key=lambda request: request.arrival_s)
    arrival_s = np.array([request.arrival_s for request in ordered])
    lines = np.array([request.line for request in ordered])
    workload = Workload(
        path.name,
        arrival_s - arrival_s[0],
        np.array([request.prompt_tokens for request in ordered]),
        np.array([request.output_tokens for request in ordered]),
        TraceOrigin(str(path), format_name, lines, tuple(rejected)),
    )
    by_metric = {
        metric: np.array([request.latencies_s.get(metric, nan) for request in ordered])
        for metric in LATENCIES
    }
    return workload, {m: values for m, values in by_metric.items() if not all(map(isnan, values))}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is a JSON {type(found).__name__}, not an object")
    return found
