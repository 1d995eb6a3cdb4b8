"""Recorded checks of drafts, from a CSV file with the columns ``drafted`` and ``accepted``."""

from __future__ import annotations

import csv
from pathlib import Path

from servecast.compiler.errors import UserError


def read_speculation(path: Path) -> tuple[tuple[int, int], ...]:
    """(drafted, accepted) by row.

    Raises:
        UserError: the file cannot be read or lacks a column, or a row is wrong, with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"drafted", "accepted"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path}:1: needs the columns drafted and accepted")
            rows = [_pair(f"{path}:{reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not rows:
        raise UserError(f"{path}: no recorded check")
    return tuple(rows)


def _pair(where: str, row: dict[str, str]) -> tuple[int, int]:
    try:
        drafted, accepted = int(row["drafted"]), int(row["accepted"])
    except (TypeError, ValueError):
        raise UserError(f"{where}: drafted and accepted must be whole numbers") from None
    if not 0 <= accepted <= drafted:
        raise UserError(f"{where}: {accepted} of {drafted} drafted tokens cannot be accepted")
    return drafted, accepted
