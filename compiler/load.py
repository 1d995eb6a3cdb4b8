"""Specs read from disk: the compiler's one door to the file system."""

from __future__ import annotations

import json
from pathlib import Path

from servecast.compiler.catalog import Spec, compile_text
from servecast.compiler.errors import SpecError, UserError
from servecast.compiler.parse import MAX_TEXT_BYTES
from servecast.compiler.program import Program


def load_spec(path: Path) -> Spec:
    """A `.llm` file, compiled.

    Raises:
        UserError: the file cannot be read.
        SpecError: the text is wrong somewhere.
    """
    return compile_text(read_text(path), str(path))


def load_model(place: str) -> Program:
    """A model by ``FILE`` (its first) or ``FILE:MODEL``.

    Raises:
        UserError: the file cannot be read, or has no such model.
    """
    path, _, name = place.rpartition(":")
    if Path(place).exists() or not path:
        return load_spec(Path(place)).model()
    return load_spec(Path(path)).model(name)


def read_text(path: Path) -> str:
    """The text of a spec.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)  # parse refuses the longer
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf_8(path, content, error.start) from None


def _not_utf_8(path: Path, content: bytes, start: int) -> SpecError:
    line = content.count(b"\n", 0, start) + 1
    line_start = content.rfind(b"\n", 0, start) + 1
    before = content[line_start:start].decode("utf-8", errors="replace")
    quoted = content[line_start:].split(b"\n")[0].decode("utf-8", errors="replace")
    column = len(before) + 1
    message = f"is not UTF-8 text: byte {content[start]:#04x} at offset {start}"
    return SpecError(message, str(path), (line, column, column + 1), quoted)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content in one step, so that an interruption leaves the old or the new.

    Raises:
        UserError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read_json(path: Path) -> dict[str, object]:
    """A JSON object.

    Raises:
        UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nesting, or a number of thousands of digits
        raise UserError(f"{path}: not understood as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value
