"""Predictions of the public serving points: written and read as CSV, summed up by group."""

from __future__ import annotations

import csv
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silicon_points import Case


@dataclass(frozen=True, slots=True)
class Answer:
    case: Case
    ttft_ms: float
    tpot_ms: float


def grouped(answers: list[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.case.group].append(answer)
    return groups


def summary(answers: list[Answer]) -> dict[str, Any]:
    """Absolute percentage errors of the rows, ours and the peer's on those that both answer."""
    ttft = [abs(a.ttft_ms / a.case.ttft_ms - 1) for a in answers]
    tpot = [abs(a.tpot_ms / a.case.tpot_ms - 1) for a in answers]
    both = [a for a in answers if a.case.peer_ttft_ms and a.case.peer_tpot_ms]
    return {
        "rows": len(answers),
        "ttft": _errors(ttft),
        "tpot": _errors(tpot),
        "tpot_bias": statistics.median(a.tpot_ms / a.case.tpot_ms - 1 for a in answers),
        "ttft_bias": statistics.median(a.ttft_ms / a.case.ttft_ms - 1 for a in answers),
        "peer_rows": len(both),
        "peer_ttft": _errors([abs((a.case.peer_ttft_ms or 0) / a.case.ttft_ms - 1) for a in both]),
        "peer_tpot": _errors([abs((a.case.peer_tpot_ms or 0) / a.case.tpot_ms - 1) for a in both]),
    }


def _errors(errors: list[float]) -> dict[str, float] | None:
    if not errors:
        return None
    return {"mean": statistics.fmean(errors), "median": statistics.median(errors)}


def report(
    cases: list[Case], answers: list[Answer], refused: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "rows": len(cases),
        "coverage": len(answers) / len(cases) if cases else None,
        "all": summary(answers) if answers else None,
        "groups": {name: summary(rows) for name, rows in sorted(grouped(answers).items())},
        "refused": Counter(row["reason"] for row in refused).most_common(),
    }


def read_answers(cases: list[Case], path: Path) -> list[Answer]:
    """What `RowsFile` wrote, with their cases."""
    by_id = {case.id: case for case in cases}
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in by_id]
    times = ("ttft_predicted_ms", "tpot_predicted_ms")
    return [Answer(by_id[row["id"]], *(float(row[name]) for name in times)) for row in rows]


class RowsFile:
    """Answers as CSV, line by line; with no path nothing is written."""

    NAMES = (
        "id",
        "model",
        "precision",
        "system",
        "backend",
        "version",
        "isl",
        "osl",
        "concurrency",
    )
    DEGREES = ("tp", "ep", "dp")
    TIMES = ("ttft_ms", "ttft_predicted_ms", "tpot_ms", "tpot_predicted_ms")

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", newline="", encoding="utf-8") if path else None

    def __enter__(self) -> RowsFile:
        self._line((*self.NAMES, *self.DEGREES, *self.TIMES))
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file:
            self._file.close()

    def write(self, answer: Answer) -> None:
        case = answer.case
        shown = [getattr(case, name) for name in self.NAMES]
        shown += [getattr(case.parallelism, name) for name in self.DEGREES]
        self._line([*shown, case.ttft_ms, answer.ttft_ms, case.tpot_ms, answer.tpot_ms])

    def _line(self, cells: Iterable[object]) -> None:
        if self._file:
            csv.writer(self._file).writerow(cells)
            self._file.flush()
