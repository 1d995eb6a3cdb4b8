"""Lines of others' CSV files: a wrong cell is named by file, line and column, never a traceback."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servecast.compiler.errors import DataMissingError

LARGEST = 2**53  # a float tells whole numbers apart up to here; no size comes near
WORDS = {"True": True, "False": False}  # as pandas writes them


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file ``of`` a kind, able to say where it is."""

    path: Path
    number: int
    row: Mapping[str, str | None]
    of: str

    def where(self, column: str) -> str:
        return f"{self.path}:{self.number}: column {column}"

    def text(self, column: str) -> str:
        """
        Raises:
            DataMissingError: the file has no such column, or the line ends before it.
        """
        if column not in self.row:
            raise DataMissingError(f"{self.path}: no column {column}; is it {self.of}?")
        text = self.row[column]
        if text is None:
            raise DataMissingError(f"{self.where(column)}: the line ends before it")
        return text

    def whole(self, column: str, least: int = 0) -> int:
        """
        Raises:
            DataMissingError: the cell is no whole number, or one below ``least``.
        """
        value, text = self._number(column), self.text(column)
        if not 0 <= value <= LARGEST or value != int(value):
            raise DataMissingError(f"{self.where(column)}: {text!r} is not a whole number")
        if value < least:
            raise DataMissingError(f"{self.where(column)}: must be at least {least}, not {text}")
        return int(value)

    def yes(self, column: str) -> bool:
        """
        Raises:
            DataMissingError: the cell is neither True nor False.
        """
        text = self.text(column)
        if text not in WORDS:
            raise DataMissingError(f"{self.where(column)}: {text!r} is neither True nor False")
        return WORDS[text]

    def time(self, column: str, unit: str) -> float:
        """A number of ``unit``, zero perhaps.

        Raises:
            DataMissingError: the cell is no time.
        """
        value = self._number(column)
        if not 0 <= value < math.inf:
            raise DataMissingError(
                f"{self.where(column)}: {self.text(column)!r} is not a time in {unit}"
            )
        return value

    def positive_time(self, column: str, unit: str) -> float:
        """
        Raises:
            DataMissingError: the cell is no positive time.
        """
        value = self.time(column, unit)
        if value <= 0:
            raise DataMissingError(f"{self.where(column)}: {value:g} {unit} is not a positive time")
        return value

    def share(self, column: str, total: int, ranks: int) -> int:
        """What of the ``total`` in a column is one rank's.

        Raises:
            DataMissingError: the ranks do not divide it.
        """
        if total % ranks:
            raise DataMissingError(f"{self.where(column)}: {ranks} ranks do not divide {total}")
        return total // ranks

    def _number(self, column: str) -> float:
        try:
            return float(self.text(column))
        except ValueError:
            return math.nan


def lines_of(path: Path, of: str) -> Iterator[Line]:
    """Every line below the header.

    Raises:
        DataMissingError: the file is not CSV, has no lines, or one has more cells than the header.
    """
    found = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark first
            for row in csv.DictReader(file):
                found += 1
                number = found + 1
                if None in row:
                    raise DataMissingError(f"{path}:{number}: more cells than the header has")
                yield Line(path, number, row, of)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataMissingError(f"{path}: is not {of}: {error}") from error
    if not found:
        raise DataMissingError(f"{path}: no lines below the header; is it {of}?")
