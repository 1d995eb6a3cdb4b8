"""The rows of a trace, checked one by one and gathered into columns.

Pure: takes lines of text, opens nothing. A row is a request, a rejected row, or an error.
"""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.trace_fields import CLOCKS, FieldError, shown, tokens
from servecast.simulator.traffic.trace_formats import TraceFormat
from servecast.simulator.traffic.trace_tags import Tags
from servecast.simulator.traffic.workload import PrefixBlocks, RejectedRow, TraceOrigin, Workload


@dataclass(slots=True)
class Row:
    """One row's fields as they stand in the file; None where the format or the row has none."""

    line: int
    arrival: object
    prompt: object
    output: object
    images: object = None
    hash_ids: object = None
    tags: Mapping[str, object] | None = None


def csv_rows(
    path: str, names: tuple[str, ...], lines: Iterable[str], fmt: TraceFormat
) -> Iterator[Row]:
    """The rows below a CSV header (line 1); blank lines are not rows."""
    wanted = (fmt.arrival, fmt.prompt, fmt.output, fmt.images)
    places = [names.index(name) if name in names else len(names) for name in wanted]
    tags = {tag: names.index(name) for tag, name in fmt.tags_in(names).items()}
    reader = csv.reader(lines)
    above = 1  # the header; a quoted field may span lines, and the row is named by its first
    try:
        for fields in reader:
            line, above = above + 1, reader.line_num + 1
            if not fields:
                continue
            if len(fields) != len(names):
                counts = f"{len(fields)} fields, but the header has {len(names)}"
                raise UserError(f"{path}:{line}: the row has {counts}")
            fields.append("")  # what a format or a file without the field gets
            arrival, prompt, output, images = (fields[place] for place in places)
            said = {tag: fields[place] for tag, place in tags.items()} if tags else None
            yield Row(line, arrival, prompt, output, images, None, said)
    except csv.Error as error:
        raise UserError(f"{path}:{above + 1}: is not CSV: {error}") from error


def json_rows(path: str, lines: Iterable[str], fmt: TraceFormat) -> Iterator[Row]:
    """The objects of a JSON lines file, from line 1; blank lines are not rows."""
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        item = json_object(path, line, text)
        missing = [name for name in fmt.required if name not in item]
        if missing:
            raise UserError(f"{path}:{line}: {', '.join(missing)} is missing")
        arrival = None if fmt.arrival is None else item[fmt.arrival]
        tags = {tag: item[name] for tag, name in fmt.tags_in(item).items()}
        lengths = item[fmt.prompt], item[fmt.output]
        yield Row(line, arrival, *lengths, None, item.get("hash_ids"), tags)


def json_object(path: str, line: int, text: str) -> dict[str, object]:
    """One line's object.

    Raises:
        UserError: the line is not JSON, or not an object.
    """
    try:
        item = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{line}: is not JSON: {error}") from error
    if not isinstance(item, dict):
        raise UserError(f"{path}:{line}: is a JSON {type(item).__name__}, not an object")
    return item


@dataclass(slots=True)
class Columns:
    """The requests and the rejected rows gathered so far."""

    fmt: TraceFormat
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    prompt: array[int] = field(default_factory=lambda: array("q"))
    output: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))
    num_blocks: array[int] = field(default_factory=lambda: array("q"))
    block_ids: array[int] = field(default_factory=lambda: array("q"))
    rejected: list[RejectedRow] = field(default_factory=list)
    tags: Tags = field(default_factory=Tags)

    def add(self, row: Row, arrival_s: float) -> None:
        """One more row, as a request or a rejected one.

        Raises:
            FieldError: a length or a block id is not what the format says.
        """
        prompt = tokens(self.fmt.prompt, row.prompt)
        output = tokens(self.fmt.output, row.output)
        block_ids = self._block_ids(row.hash_ids, prompt)
        if row.images and tokens(str(self.fmt.images), row.images):
            return self._reject(row, f"has {row.images} images; only text is simulated")
        if prompt == 0:
            return self._reject(row, f"{self.fmt.prompt} is 0: there is nothing to prefill")
        if output == 0:
            return self._reject(row, f"{self.fmt.output} is 0: the request failed or was cut off")
        self.arrival_s.append(arrival_s)
        self.prompt.append(prompt)
        self.output.append(output)
        self.line.append(row.line)
        self.num_blocks.append(len(block_ids))
        self.block_ids.extend(block_ids)
        if row.tags is not None:
            self.tags.add(row.tags)
        return None

    def _reject(self, row: Row, reason: str) -> None:
        self.rejected.append(RejectedRow(row.line, reason))

    def _block_ids(self, value: object, prompt: int) -> list[int]:
        if value is None or self.fmt.block_tokens is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise FieldError(f"hash_ids {shown(value)} is not a list of whole numbers")
        if any(not 0 <= item < 1 << 63 for item in value):
            raise FieldError("hash_ids has an id below 0 or beyond 64 bits")
        blocks = -(-prompt // self.fmt.block_tokens)
        if len(value) != blocks:
            raise FieldError(
                f"hash_ids names {len(value)} blocks, but {prompt} tokens are {blocks} blocks "
                f"of {self.fmt.block_tokens}"
            )
        return value

    def workload(self, path: str, name: str, format_name: str) -> Workload:
        """What was gathered, the first request arriving at 0.

        Raises:
            UserError: no request was gathered.
        """
        if not self.line:
            raise UserError(f"{path}: {self._why_empty()}")
        arrival_s = np.array(self.arrival_s)
        origin = TraceOrigin(path, format_name, np.array(self.line), tuple(self.rejected))
        return Workload(
            name=name,
            arrival_s=arrival_s - arrival_s[0],
            prompt_tokens=np.array(self.prompt),
            output_tokens=np.array(self.output),
            origin=origin,
            prefix=self._prefix(),
            **self.tags.columns(),
        )

    def _why_empty(self) -> str:
        if not self.rejected:
            return "there is no request in it"
        first = self.rejected[0]
        return (
            f"none of its {len(self.rejected)} rows is a request: "
            f"on line {first.line}, {first.reason}"
        )

    def _prefix(self) -> PrefixBlocks | None:
        if self.fmt.block_tokens is None or not self.block_ids:
            return None
        offsets = np.concatenate(([0], np.cumsum(self.num_blocks)))
        return PrefixBlocks(self.fmt.block_tokens, offsets, np.array(self.block_ids))


def gather(path: str, rows: Iterable[Row], fmt: TraceFormat, num_requests: int | None) -> Columns:
    """The columns of the rows, in order, up to ``num_requests`` requests.

    Raises:
        UserError: a row is not what the format says, or arrives before the one above it.
    """
    columns = Columns(fmt)
    clock = CLOCKS[fmt.clock]()
    last_s = -math.inf
    for row in rows:
        try:
            arrival_s = clock(fmt.arrival, row.arrival) if fmt.arrival else 0.0
            if arrival_s < last_s:
                back_s = last_s - arrival_s
                raise FieldError(f"{fmt.arrival} goes back by {back_s:g} s; sort rows by arrival")
            columns.add(row, arrival_s)
        except FieldError as error:
            raise UserError(f"{path}:{row.line}: {error}") from None
        last_s = arrival_s
        if len(columns.line) == num_requests:
            break
    return columns
