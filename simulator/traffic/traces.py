"""Traces read into workloads, and workloads saved as traces: what opens files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.arrival_processes import Gamma, with_arrivals
from servecast.simulator.traffic.trace_formats import FORMATS, format_of
from servecast.simulator.traffic.trace_rows import Row, csv_rows, gather, json_object, json_rows
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

MAX_HEADER_CHARS = 1 << 20
"""A longer first line is neither a header nor a request: a binary file can be one line."""


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How to read a trace beyond what the file says.

    ``rate_per_s`` rescales the file's arrivals, or is the rate of Poisson ones where it has none.
    ``arrival_cv`` replaces them by gamma gaps of that coefficient of variation. ``num_requests``
    stops the reading after so many.
    """

    format: str | None = None
    rate_per_s: float | None = None
    arrival_cv: float | None = None
    seed: int = 0
    num_requests: int | None = None


def read_trace(path: Path, options: TraceOptions | None = None) -> Workload:
    """The workload in a trace file, its first request arriving at 0.

    Raises:
        UserError: whatever about the file makes it no workload, with the line where there is one.
    """
    options = options or TraceOptions()
    if options.num_requests is not None and options.num_requests < 1:
        raise UserError(f"{path}: cannot read {options.num_requests} requests; ask for 1 or more")
    if path.is_dir():
        raise UserError(f"{path} is a directory; a trace is one CSV or JSON lines file")
    try:
        # Undecodable bytes become surrogates, which no number contains: the row's check finds them.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            workload, format_name = _read(path, file, options)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _timed(workload, FORMATS[format_name].arrival is not None, options)


def write_trace(workload: Workload, path: Path) -> None:
    """Save as our own CSV, or, with prefix blocks and a name that ends in ``.jsonl``, as Mooncake's.

    The CSV reads back to the same numbers, without prefix blocks; JSON lines to the microsecond.

    Raises:
        UserError: the file cannot be written, or its format cannot hold the workload's blocks.
    """
    lines = _mooncake_lines(workload) if path.suffix == ".jsonl" else _csv_lines(workload)
    try:
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _csv_lines(workload: Workload) -> Iterator[str]:
    tags = {"client": workload.client, "session": workload.session, "priority": workload.priority}
    said = {tag: column.tolist() for tag, column in tags.items() if column is not None}
    rows = zip(
        (repr(arrival_s) for arrival_s in workload.arrival_s.tolist()),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        *said.values(),
        strict=True,
    )
    yield ",".join(("arrival_s", "prompt_tokens", "output_tokens", *said)) + "\n"
    for row in rows:
        yield ",".join(map(str, row)) + "\n"


def _mooncake_lines(workload: Workload) -> Iterator[str]:
    """Checks at once, before a file is opened."""
    prefix, block_tokens = workload.prefix, FORMATS["mooncake"].block_tokens
    if prefix is None or prefix.block_tokens != block_tokens:
        has = "no prefix blocks" if prefix is None else f"blocks of {prefix.block_tokens} tokens"
        raise UserError(
            f"{workload.name}: JSON lines are Mooncake's format, with prefix blocks of {block_tokens} "
            f"tokens, and the workload has {has}; save it as .csv"
        )
    return _mooncake_rows(workload, prefix)


def _mooncake_rows(workload: Workload, prefix: PrefixBlocks) -> Iterator[str]:
    offsets, ids = prefix.offsets.tolist(), prefix.ids.tolist()
    for i, arrival_s in enumerate(workload.arrival_s.tolist()):
        row = {
            "timestamp": _whole(round(arrival_s * 1e3, 3)),
            "input_length": int(workload.prompt_tokens[i]),
            "output_length": int(workload.output_tokens[i]),
            "hash_ids": ids[offsets[i] : offsets[i + 1]],
        }
        yield json.dumps(row) + "\n"


def _whole(number: float) -> float | int:
    """As Mooncake writes it where it can be."""
    return int(number) if number.is_integer() else number


def _read(path: Path, file: TextIO, options: TraceOptions) -> tuple[Workload, str]:
    place = str(path)
    header = file.readline(MAX_HEADER_CHARS)
    if not header:
        raise UserError(f"{place}: is empty")
    if "\0" in header or any("\udc80" <= char <= "\udcff" for char in header):
        raise UserError(f"{place}: is not UTF-8 text; a trace is CSV or JSON lines")
    is_json = header.lstrip().startswith("{")
    names = tuple(json_object(place, 1, header)) if is_json else _csv_names(place, header)
    format_name = format_of(place, names, json_lines=is_json, asked=options.format)
    fmt = FORMATS[format_name]
    rows: Iterator[Row] = (
        json_rows(place, chain([header], file), fmt)
        if is_json
        else csv_rows(place, names, file, fmt)
    )
    columns = gather(place, rows, fmt, options.num_requests)
    return columns.workload(place, path.name, format_name), format_name


def _csv_names(path: str, header: str) -> tuple[str, ...]:
    try:
        names = tuple(name.strip() for name in next(csv.reader([header])))
    except csv.Error as error:
        raise UserError(f"{path}:1: is not CSV: {error}") from error
    if not any(names):
        raise UserError(f"{path}:1: is blank; the first line must name the columns")
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"{path}:1: column {name} is there more than once")
    return names


def _timed(workload: Workload, has_arrivals: bool, options: TraceOptions) -> Workload:
    if not has_arrivals and options.rate_per_s is None:
        raise UserError(
            f"{workload.name}: has lengths but no arrival times; give --rate, the requests per "
            "second at which to draw them"
        )
    if has_arrivals and options.arrival_cv is None:
        return workload if options.rate_per_s is None else workload.at_rate(options.rate_per_s)
    cv = 1.0 if options.arrival_cv is None else options.arrival_cv
    rate_per_s = workload.rate_per_s if options.rate_per_s is None else options.rate_per_s
    return with_arrivals(workload, rate_per_s, Gamma(cv), options.seed)
