"""What a search has found so far, in a file that grows by a line a configuration: a stopped search goes on.

Lines of JSON. The first names the question; a file of another question is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from servecast.compiler.errors import UserError
from servecast.compiler.service import Slo
from servecast.simulator.metrics.metrics import Distribution, ReplicaMetrics
from servecast.simulator.search.capacity import Hopeless, Violation
from servecast.simulator.search.found import Beaten, Carried, Found, PairCarried, Pool, TooFewGpus
from servecast.simulator.search.outcome import AnyOutcome
from servecast.simulator.search.result import identity_of
from servecast.simulator.traffic.workload import Workload

ROLES = ("prefill", "decode")
MOST = 9
"""Searches that write side by side."""
DISTRIBUTIONS = ("ttft_s", "tbt_s", "tpot_s", "e2e_s", "queue_delay_s")


def question_key(parts: Iterable[object], workload: Workload) -> str:
    """Equal for equal questions, traces and data: what a journal's outcomes depend on."""
    digest = hashlib.sha256(repr(list(parts)).encode())
    prefix, told = workload.prefix, (workload.client, workload.session, workload.priority)
    shared = (None, None) if prefix is None else (prefix.offsets, prefix.ids)
    sizes = workload.arrival_s, workload.prompt_tokens, workload.output_tokens
    for array in (*sizes, *told, *shared):
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


@dataclass(slots=True)
class Journal:
    """The file is made with the first outcome, and goes when the search is done.

    Searches side by side have one each: while another process writes ``search.jsonl``, this one writes
    ``search-2.jsonl``. A search is resumed from the file that names its question.
    """

    path: Path
    key: str
    resume: bool = False
    _file: IO[str] | None = None

    def earlier(self, asked: Iterable[AnyOutcome]) -> Iterator[AnyOutcome]:
        """What the stopped search found of those that are ``asked`` for; nothing unless it is to be resumed.

        Raises:
            UserError: there is no such file, or it is of another question.
        """
        if not self.resume:
            return
        by_name = {_name(outcome): outcome for outcome in asked}
        for line in self._lines():
            yield replace(by_name[line["configuration"]], found=_decoded(line))

    def add(self, outcome: AnyOutcome) -> None:
        """
        Raises:
            UserError: the file cannot be written.
        """
        found = outcome.found
        line = {
            "configuration": _name(outcome),
            "kind": type(found).__name__,
            "found": asdict(found),
        }
        try:
            if self._file is None:
                self._file = self._begun()
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error

    @property
    def written(self) -> Path | None:
        """The file; None while there is none."""
        return None if self._file is None else Path(self._file.name)

    def close(self, *, done: bool) -> None:
        if self._file is None:
            return
        if done:
            Path(self._file.name).unlink(missing_ok=True)
        self._file.close()

    def _begun(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = next(filter(None, map(_claimed, self._places())), None)
        if file is None:
            raise UserError(
                f"{self.path}: {MOST} searches write there already; --out takes another"
            )
        file.truncate(0)
        file.write(json.dumps({"search": self.key}) + "\n")
        return file

    def _places(self) -> Iterator[Path]:
        yield self.path
        for number in range(2, MOST + 1):
            yield self.path.with_stem(f"{self.path.stem}-{number}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        lines = self._resumed()
        for line in lines:  # the last may be cut off in the middle
            if parsed := _parsed(line):
                yield parsed

    def _resumed(self) -> list[str]:
        """The lines of the stopped search, whose file is from now on this one's."""
        others = False
        for place in self._places():
            try:
                file = _claimed(place) if place.is_file() else None
            except OSError:  # somebody else's
                file = None
            if file is None:
                continue
            text = _text(file)
            first, *lines = text.splitlines() or [""]
            if _parsed(first).get("search") == self.key:
                self._file = file
                if not text.endswith("\n"):
                    file.write("\n")
                return lines
            file.close()
            others = True
        if not others:
            raise UserError(f"--resume: {self.path}: no search was stopped there")
        raise UserError(
            f"--resume: {self.path} is of another question, trace or data than this one; "
            "give the same options, or search anew without --resume"
        )


def _claimed(path: Path) -> IO[str] | None:
    """The file, as long as it is open for this process alone; None: another one has it."""
    file = path.open("a+", encoding="utf-8")
    try:  # POSIX locks: workers do not inherit them
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _text(file: IO[str]) -> str:
    """Nothing where it is no text."""
    try:
        file.seek(0)
        return file.read()
    except ValueError:
        return ""


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _name(outcome: AnyOutcome) -> str:
    return " ".join(map(str, identity_of(outcome).values()))


def _decoded(line: dict[str, Any]) -> Found:
    fields = line["found"]
    match line["kind"]:
        case "Carried":
            return Carried(**fields | _served(fields))
        case "PairCarried":
            return PairCarried(
                **fields | _served(fields) | {role: _pool(fields[role]) for role in ROLES}
            )
        case "Hopeless":
            violations = (Violation(Slo(**v["slo"]), v["value_s"]) for v in fields["violations"])
            return Hopeless(tuple(violations), fields["rejected"])
        case "TooFewGpus":
            return TooFewGpus(**fields)
        case _:
            return Beaten(**fields)


def _served(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "metrics": _metrics(fields["metrics"]),
        "seconds_by_source": tuple((name, s) for name, s in fields["seconds_by_source"]),
        "breaks": tuple(Slo(**slo) for slo in fields["breaks"]),
    }


def _pool(fields: dict[str, Any]) -> Pool:
    return Pool(**fields | {"metrics": _metrics(fields["metrics"])})


def _metrics(fields: dict[str, Any]) -> ReplicaMetrics:
    return ReplicaMetrics(**fields | {name: Distribution(**fields[name]) for name in DISTRIBUTIONS})
