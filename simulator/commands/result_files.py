"""The files of an answer: ``results.json`` and ``report.html``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from servecast.compiler.errors import UserError
from servecast.simulator.report.render import render


def check_folder(folder: Path) -> None:
    """Raises UserError where nothing could be saved, before anything is searched."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise UserError(f"{folder}: cannot write the result there: {error.strerror}") from error


def save(result: dict[str, Any], folder: Path) -> None:
    """Writes ``results.json`` and ``report.html`` into ``folder``, each whole or not at all."""
    writers: dict[str, Callable[[TextIO], object]] = {
        "results.json": lambda file: write_json(result, file),
        "report.html": lambda file: file.write(render(result)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            partial = folder / f"{name}.partial"
            with partial.open("w", encoding="utf-8") as file:
                write(file)
            partial.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot write the result there: {error.strerror}") from error


def write_json(result: dict[str, Any], file: TextIO) -> None:
    """Piece by piece: as one text, a configuration takes several times the memory of what was found of it."""
    json.dump(result, file, indent=2, allow_nan=False)
    file.write("\n")
