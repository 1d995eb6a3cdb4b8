"""Reads recorded runs of real engines, whoever wrote them.

A reader is a function and a row in ``READERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from servecast.compiler.errors import UserError
from servecast.simulator.measured.bench import (
    read_aiperf,
    read_guidellm,
    read_inference_perf,
    read_vllm_bench,
)
from servecast.simulator.measured.llmservingsim import read_folder
from servecast.simulator.measured.plain_csv import read_csv
from servecast.simulator.measured.prometheus import is_prometheus, read_prometheus
from servecast.simulator.measured.run import MeasuredRun, read_json

SUMMARIES = ("profile_export_aiperf.json", "profile_export_genai_perf.json")


def read_run(path: Path) -> MeasuredRun:
    """The run recorded in a file or a folder, by its shape.

    Raises:
        UserError: it is no recording known here, or a value in it is wrong, with its line.
    """
    try:
        if not path.exists():
            raise UserError(f"{path}: cannot be read: no such file or folder")
        if path.name in SUMMARIES:
            raise UserError(f"{path}: holds statistics alone; give profile_export.jsonl beside it")
        for recognised, reader in READERS.values():
            if recognised(path):
                return reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise UserError(
        f"{path}: is no recording known here: {', '.join(READERS)}; see docs/validate.md"
    )


def _json(shaped: Callable[[Any], bool]) -> Callable[[Path], bool]:
    """A JSON file of that shape."""
    return lambda path: path.suffix == ".json" and path.is_file() and shaped(read_json(path))


def _is_inference_perf(found: Any) -> bool:
    first = found[0] if isinstance(found, list) and found else None
    return isinstance(first, dict) and "start_time" in first


READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], MeasuredRun]]] = {
    "llmservingsim": (lambda path: (path / "meta.json").is_file(), read_folder),
    "aiperf": (lambda path: path.suffix == ".jsonl" and path.is_file(), read_aiperf),
    "prometheus": (_json(is_prometheus), read_prometheus),
    "guidellm": (
        _json(lambda found: isinstance(found, dict) and "benchmarks" in found),
        read_guidellm,
    ),
    "inference-perf": (_json(_is_inference_perf), read_inference_perf),
    "vllm-bench": (lambda path: path.suffix == ".json" and path.is_file(), read_vllm_bench),
    "csv": (lambda path: path.is_file(), read_csv),
}
"""By format: what recognises it, tried in order, and what reads it."""
