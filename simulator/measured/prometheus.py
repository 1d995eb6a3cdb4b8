"""Range data of vLLM's own metrics, as Prometheus' ``/api/v1/query_range`` answers: on the server's clock.

Histograms know no single request. As many requests as finished are drawn: lengths and latencies each by
their histogram, linear within a bucket, arrivals evenly between two scrapes. Means and percentiles of a
metric are then the recording's; which request had which is not.
SOURCE: the metrics' names, vllm/v1/metrics/loggers.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.measured.json_parts import list_at, object_at
from servecast.simulator.measured.run import Curve, MeasuredRun, Setting, read_json
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.trace_fields import MAX_TOKENS, FieldError, finite_number
from servecast.simulator.traffic.workload import Floats, Ints, Workload

LATENCY_NAMES = {
    "queue_delay": ("vllm:request_queue_time_seconds",),
    "ttft": ("vllm:time_to_first_token_seconds",),
    "tpot": (
        "vllm:request_time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    ),
    "e2e": ("vllm:e2e_request_latency_seconds",),
}
PROMPT, OUTPUT = "vllm:request_prompt_tokens", "vllm:request_generation_tokens"
FINISHED = "vllm:request_success_total"
CURVES = {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"}
CACHE = "vllm:cache_config_info"
HISTOGRAMS = (PROMPT, OUTPUT, *(name for names in LATENCY_NAMES.values() for name in names))
READ = frozenset({FINISHED, CACHE, *CURVES.values(), *(f"{name}_bucket" for name in HISTOGRAMS)})
SAMPLE = ("time", "value")
LEAST_REQUESTS, MOST_REQUESTS = 20, 10_000_000
NOTE = "histograms of a server: requests are drawn from them, and intervals do not pair requests"


@dataclass(frozen=True, slots=True)
class _Series:
    labels: Mapping[str, str]
    at_s: Floats
    values: Floats

    @property
    def increase(self) -> float:
        """A counter's; after a restart it begins again at 0."""
        steps = np.diff(self.values)
        return float(np.where(steps < 0, self.values[1:], steps).sum())


def read_prometheus(path: Path) -> MeasuredRun:
    """
    Raises:
        UserError: a histogram that is needed is missing, or too few requests finished, or too many to draw.
    """
    series = _series(path)
    finished = _increases(path, series)
    count = int(finished.values.sum())
    if not LEAST_REQUESTS <= count <= MOST_REQUESTS:
        raise UserError(
            f"{path}: {count} requests finished in it; {LEAST_REQUESTS} to {MOST_REQUESTS} make a run"
        )
    rng = stream(0, path.name)
    prompt, output = (
        rng.permutation(_lengths(path, series, name, count)) for name in (PROMPT, OUTPUT)
    )
    arrival_s = _arrivals(finished, count)
    workload = Workload(path.name, arrival_s - arrival_s[0], prompt, output)
    latencies_s = {}
    for metric, names in LATENCY_NAMES.items():
        told = [name for name in names if any(_is(s, f"{name}_bucket") for s in series)]
        if told:
            latencies_s[metric] = rng.permutation(_drawn(path, series, told[0], count))
    if not latencies_s:
        raise UserError(f"{path}: no latency histogram of vLLM in it")
    return MeasuredRun(
        workload,
        "server",
        latencies_s,
        settings=_settings(series),
        notes=(NOTE,),
        engine="vllm",
        curves=_curves(series, float(arrival_s[0])),
    )


def is_prometheus(found: Any) -> bool:
    answers = found if isinstance(found, list) else [found]
    first = answers[0] if answers else None
    return isinstance(first, dict) and isinstance(first.get("data"), dict)


def _series(path: Path) -> list[_Series]:
    """Of one answer, or of a list of them.

    Raises:
        UserError: it is no range data.
    """
    found = read_json(path)
    series: list[_Series] = []
    for answer in found if isinstance(found, list) else [found]:
        try:
            series += _rows(object_at("an answer", answer))
        except FieldError as error:
            raise UserError(f"{path}: {error}") from None
    return series


def _rows(answer: Mapping[str, Any]) -> Iterator[_Series]:
    """Those that are read. Raises: FieldError."""
    data = object_at("its data", answer.get("data"))
    kind = data.get("resultType")
    if answer.get("status") != "success" or kind != "matrix":
        raise FieldError(f"is {kind or 'an error'}, not range data; ask /api/v1/query_range")
    for found in list_at("its result", data.get("result")):
        row = object_at("a row of its result", found)
        labels = object_at("a row's metric", row.get("metric"))
        if str(labels.get("__name__")) in READ:
            yield _row(labels, row.get("values"))


def _row(labels: Mapping[str, Any], found: object) -> _Series:
    """Raises: FieldError: a sample is no pair of a time and a finite number, or not after the one before."""
    name = labels["__name__"]
    samples = [list_at(f"a sample of {name}", s) for s in list_at(f"the values of {name}", found)]
    if not samples or any(len(sample) != len(SAMPLE) for sample in samples):
        raise FieldError(f"{name} has no samples, or one that is no pair of a time and a value")
    at_s, values = (
        np.array([finite_number(f"a {what} of {name}", sample[i]) for sample in samples])
        for i, what in enumerate(SAMPLE)
    )
    if (np.diff(at_s) <= 0).any():
        raise FieldError(f"the samples of {name} are not in order of time")
    if name.endswith("_bucket") and labels.get("le") != "+Inf":
        finite_number(f"the bound (le) of {name}", labels.get("le"))
    return _Series({label: str(value) for label, value in labels.items()}, at_s, values)


def _is(series: _Series, name: str) -> bool:
    return series.labels.get("__name__") == name


def _increases(path: Path, series: list[_Series]) -> _Series:
    """Requests that finished between scrapes: at the later one, summed over reasons."""
    found = [s for s in series if _is(s, FINISHED) and len(s.values) > 1]
    if not found:
        raise UserError(f"{path}: lacks {FINISHED}, or has one scrape of it")
    at_s = np.unique(np.concatenate([s.at_s for s in found]))
    total = np.zeros(len(at_s))
    for s in found:
        steps = np.diff(s.values)
        total[np.searchsorted(at_s, s.at_s[1:])] += np.where(steps < 0, s.values[1:], steps)
    return _Series({}, at_s, total)


def _arrivals(finished: _Series, count: int) -> Floats:
    """Instants, evenly over the time in which as many finished."""
    done = np.cumsum(finished.values)
    arrival_s = np.interp((np.arange(count) + 0.5) / count * done[-1], done, finished.at_s)
    return np.asarray(arrival_s, dtype=np.float64)


def _curves(series: list[_Series], start_s: float) -> dict[str, Curve]:
    """Summed over engines at the moments that all of them were scraped at."""
    curves = {}
    for name, metric in CURVES.items():
        told = [s for s in series if _is(s, metric)]
        if told:
            at_s = reduce(np.intersect1d, [s.at_s for s in told])
            of_each = [s.values[np.isin(s.at_s, at_s)] for s in told]
            curves[name] = Curve(at_s - start_s, np.sum(of_each, axis=0))
    return curves


def _lengths(path: Path, series: list[_Series], name: str, count: int) -> Ints:
    drawn = np.maximum(np.rint(_drawn(path, series, name, count)), 1)
    if drawn[-1] > MAX_TOKENS:
        raise UserError(f"{path}: {name} counts {drawn[-1]:g} tokens, more than any model takes")
    return drawn.astype(np.int64)


def _drawn(path: Path, series: list[_Series], name: str, count: int) -> Floats:
    """``count`` equally likely values of a histogram; what is above its last bound stands at it."""
    buckets = [s for s in series if _is(s, f"{name}_bucket")]
    by_bound: dict[float, float] = {}
    for s in buckets:
        bound = float(s.labels["le"])
        by_bound[bound] = by_bound.get(bound, 0.0) + s.increase
    bounds = np.array(sorted(bound for bound in by_bound if np.isfinite(bound)))
    below = np.array([by_bound[bound] for bound in bounds])
    if not len(bounds) or below[-1] <= 0:
        raise UserError(f"{path}: lacks {name}_bucket, or nothing was counted in it")
    shares = np.concatenate([[0.0], below / max(below[-1], *by_bound.values())])
    quantiles = (np.arange(count) + 0.5) / count
    drawn = np.interp(quantiles, shares, np.concatenate([[0.0], bounds]))
    return np.asarray(drawn, dtype=np.float64)


def _settings(series: list[_Series]) -> dict[str, Setting]:
    """The KV blocks, where vLLM told its cache."""
    blocks = [s.labels.get("num_gpu_blocks", "") for s in series if _is(s, CACHE)]
    return {"kv_blocks": int(blocks[0])} if blocks and blocks[0].isdigit() else {}
