"""Reads what a live engine logged of its steps: the batch of each and how long its forward pass took.

CSV with a header; a row a step:

    seconds,decodes,cached_tokens,chunks
    0.0123,8,16000,
    0.0451,7,14200,0+512;1024+256

``cached_tokens`` are those of the decodes together, ``chunks`` the step's prefill chunks as context + tokens.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.estimator.measurement import Floats, Ints

COLUMNS = ("seconds", "decodes", "cached_tokens", "chunks")
MOST_DIGITS = 15  # of a count; numpy has 18
CHUNK = re.compile(rf"(\d{{1,{MOST_DIGITS}}})\+([1-9]\d{{0,{MOST_DIGITS - 1}}})")

Chunks = tuple[tuple[int, int], ...]  # (context, tokens)


@dataclass(frozen=True, slots=True, eq=False)
class StepLog:
    """One entry a step [steps]; ``chunks`` are each step's (context, tokens)."""

    seconds: Floats
    decodes: Ints
    cached_tokens: Ints
    chunks: tuple[Chunks, ...]

    @property
    def tokens(self) -> Ints:
        chunked = [sum(m for _, m in step) for step in self.chunks]
        return self.decodes + np.array(chunked, dtype=np.int64)

    @property
    def sequences(self) -> Ints:
        return self.decodes + np.array([len(step) for step in self.chunks], dtype=np.int64)


def read_step_log(source: Path | str) -> StepLog:
    """
    Raises:
        DataMissingError: it cannot be read, a column lacks or a cell is none; it is named by line and column.
    """
    path = Path(source)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataMissingError(
                    f"{path}: no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
                )
            rows = [_row(row, f"{path}:{line}") for line, row in enumerate(reader, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataMissingError(f"{path}: is no log of steps: {error}") from error
    except OSError as error:
        raise DataMissingError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not rows:
        raise DataMissingError(f"{path}: has no steps below its header")
    return log_of(rows)


def log_of(rows: Sequence[tuple[float, int, int, Chunks]]) -> StepLog:
    """From (seconds, decodes, cached tokens, chunks) of each step."""
    return StepLog(
        np.array([row[0] for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
        tuple(row[3] for row in rows),
    )


def _row(row: dict[str, str], where: str) -> tuple[float, int, int, Chunks]:
    try:
        seconds = float(row["seconds"])
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise DataMissingError(f"{where}: seconds {row['seconds']!r} is no positive time")
    decodes, cached = _count(row, "decodes", where), _count(row, "cached_tokens", where)
    chunks = tuple(_chunk(text, where) for text in (row["chunks"] or "").split(";") if text)
    if not decodes and not chunks:
        raise DataMissingError(f"{where}: a step without decodes and without chunks ran nothing")
    return seconds, decodes, cached, chunks


def _count(row: dict[str, str], name: str, where: str) -> int:
    text = row[name] or ""
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise DataMissingError(f"{where}: {name} {row[name]!r} is no count")
    return int(row[name])


def _chunk(text: str, where: str) -> tuple[int, int]:
    match = CHUNK.fullmatch(text.strip())
    if match is None:
        raise DataMissingError(f"{where}: chunk {text!r} is not context+tokens, like 1024+256")
    return int(match[1]), int(match[2])
