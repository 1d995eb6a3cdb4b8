"""Predictions of the public serving points: written and read as CSV, summed up by group."""

from __future__ import annotations

import csv
import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silicon_points import REPOSITORY, Case

PARTS = ("collectives", "gate", "placed", "points", "runs", "settings")
PREDICTING = (
    *("compiler", "estimator", "simulator", "spec"),
    *(f"benchmarks/silicon_{name}.py" for name in PARTS),
)
"""The code that predicts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``inputs`` is a digest of what it came from: tables, settings, the engine's code."""

    case: Case
    ttft_ms: float
    tpot_ms: float
    inputs: str


def digest_of(parts: tuple[str, ...]) -> str:
    """Of files, and of the code and specs in folders, of this tree."""
    digest = hashlib.sha256()
    for part in (REPOSITORY / name for name in parts):
        inside = [path for path in part.rglob("*") if path.suffix in (".py", ".llm")]
        for path in sorted(inside) if part.is_dir() else [part]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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


def read_answers(cases: list[Case], path: Path) -> tuple[list[Answer], str]:
    """What `RowsFile` wrote, with their cases, and the digest of the code that answered."""
    by_id = {case.id: case for case in cases}
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in by_id]
    codes = {row["code"] for row in rows}
    answers = [Answer(by_id[row["id"]], *_predicted(row), row["inputs"]) for row in rows]
    return answers, "/".join(sorted(codes))


def known_answers(path: Path | None) -> dict[str, tuple[float, float]]:
    """TTFT and TPOT in milliseconds by inputs, of a file that may not be there yet."""
    if path is None or not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("inputs") and row.get("code")]
    return {row["inputs"]: _predicted(row) for row in rows}


def _predicted(row: dict[str, str]) -> tuple[float, float]:
    return float(row["ttft_predicted_ms"]), float(row["tpot_predicted_ms"])


class RowsFile:
    """Answers as CSV, in place of an older file once all are there; with no path nothing is written."""

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
    TIMES = ("ttft_ms", "ttft_predicted_ms", "tpot_ms", "tpot_predicted_ms", "inputs", "code")

    def __init__(self, path: Path | None) -> None:
        self._path, self._part = path, path.with_suffix(".part") if path else None
        self._file = self._part.open("w", newline="", encoding="utf-8") if self._part else None
        self._code = digest_of(PREDICTING)

    def __enter__(self) -> RowsFile:
        self._line((*self.NAMES, *self.DEGREES, *self.TIMES))
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file:
            self._file.close()
        if self._part and self._path and exception[0] is None:
            self._part.replace(self._path)

    def write(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            case = answer.case
            shown = [getattr(case, name) for name in self.NAMES]
            shown += [getattr(case.parallelism, name) for name in self.DEGREES]
            times = [case.ttft_ms, answer.ttft_ms, case.tpot_ms, answer.tpot_ms]
            self._line([*shown, *times, answer.inputs, self._code])

    def _line(self, cells: Iterable[object]) -> None:
        if self._file:
            csv.writer(self._file).writerow(cells)
            self._file.flush()
