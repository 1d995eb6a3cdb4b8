"""A recorded run of a real engine: what arrived, what each request was made to wait, on whose clock.

A server's clock starts when the engine takes a request, a client's when it sends one: their latencies are two
different metrics and are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.measured.json_parts import kind
from servecast.simulator.traffic.workload import Floats, RejectedRow, TraceOrigin, Workload

LATENCIES = ("queue_delay", "ttft", "tpot", "e2e")
NO_FIRST_TOKEN = "the request failed: it has no first token"
Setting = int | str | bool


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Requests at moments after the first arrival, both [samples]."""

    at_s: Floats
    requests: Floats


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """``latencies_s`` by metric, each [requests] in order of arrival, NaN where it was not recorded.

    ``settings`` are what the recording tells of the engine, by the names of `simulate.Setup`. ``gaps_s``
    are all gaps between tokens, of all requests; None where they were not recorded. With
    ``async_scheduling`` the engine prepared a step while the one before it ran; None: not told.
    ``engine`` and its version are "" where nobody tells them. A workload with prefix blocks ran with the
    engine's prefix cache on. ``curves`` are of requests ``running`` and ``waiting``, where recorded.
    """

    workload: Workload
    clock: str
    latencies_s: Mapping[str, Floats]
    gaps_s: Floats | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    async_scheduling: bool | None = None
    engine: str = ""
    engine_version: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasuredRequest:
    """``line`` is the request's line or number in its file."""

    line: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    latencies_s: Mapping[str, float]


CLOCK_S = 1e-3
"""By so much two clocks of one recording may disagree."""


def streamed(ttft_s: float, e2e_s: float, output_tokens: int) -> dict[str, float]:
    """The latencies of an answer whose first token came after ``ttft_s``, the last after ``e2e_s``."""
    gaps = output_tokens - 1
    return {"ttft": ttft_s, "tpot": (e2e_s - ttft_s) / gaps if gaps > 0 else nan, "e2e": e2e_s}


def columns(
    path: Path,
    format_name: str,
    requests: Sequence[MeasuredRequest],
    rejected: Sequence[RejectedRow] = (),
) -> tuple[Workload, dict[str, Floats]]:
    """In order of arrival, whatever the order of recording; what nobody recorded is left out.

    Raises:
        UserError: no request finished, or one in less than no time.
    """
    if not requests:
        raise UserError(f"{path}: there is no finished request in it")
    for request in requests:
        for metric, seconds in request.latencies_s.items():
            if seconds < -CLOCK_S:
                where = f"{path}:{request.line}: {metric}_s"
                raise UserError(f"{where} must be 0 or more, got {seconds:g}")
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


def json_object(path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: the file holds no JSON object.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: is {kind(found)}, not an object")
    return found


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from error
