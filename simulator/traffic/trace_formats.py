"""The trace formats known here, and which of them a file's field names say that it is.

A format's unit of time is a property of its row and is never guessed from the numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from servecast.compiler.errors import UserError

MAX_SHOWN_CHARS = 120
"""What a message quotes of a header; a binary file's first line can be a megabyte."""


TAGS = ("client", "session", "priority", "parent")
"""What a trace may say of a request beyond its arrival and lengths."""


class Clock(Enum):
    """What a format's arrival field counts."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    TIMESTAMP = "ISO 8601 date and time"


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """Where a format keeps what a workload needs; ``arrival`` is None where it has lengths only.

    ``signature`` are further fields that must be there for the format to be recognised unasked.
    ``images`` counts what only a multimodal engine can serve. ``block_tokens`` is the size of the
    prompt blocks that ``hash_ids`` names. ``client``, ``session`` and ``priority`` are read where a file has
    them; ``parent`` names the request that a session goes on from.
    """

    prompt: str
    output: str
    arrival: str | None = None
    clock: Clock = Clock.SECONDS
    json_lines: bool = False
    signature: tuple[str, ...] = ()
    images: str | None = None
    block_tokens: int | None = None
    client: str | None = None
    session: str | None = None
    priority: str | None = None
    parent: str | None = None

    def tags_in(self, names: Iterable[str]) -> dict[str, str]:
        """The fields of TAGS that are among ``names``, by tag."""
        there = set(names)
        said = {tag: getattr(self, tag) for tag in TAGS}
        return {tag: name for tag, name in said.items() if name in there}

    @property
    def required(self) -> tuple[str, ...]:
        """The fields without which nothing can be read."""
        return tuple(name for name in (self.arrival, self.prompt, self.output) if name)

    @property
    def recognised_by(self) -> tuple[str, ...]:
        """The fields that together name this format."""
        return (*self.required, *self.signature)


def _hashed_blocks(clock: Clock, block_tokens: int, *signature: str) -> TraceFormat:
    return TraceFormat(
        "input_length",
        "output_length",
        "timestamp",
        clock,
        json_lines=True,
        signature=("hash_ids", *signature),
        block_tokens=block_tokens,
    )


FORMATS: dict[str, TraceFormat] = {
    "servecast": TraceFormat(
        "prompt_tokens",
        "output_tokens",
        "arrival_s",
        client="client",
        session="session",
        priority="priority",
    ),
    "servecast-lengths": TraceFormat("prompt_tokens", "output_tokens"),
    "azure": TraceFormat(
        "ContextTokens", "GeneratedTokens", "TIMESTAMP", Clock.TIMESTAMP, images="NumImages"
    ),
    "vidur": TraceFormat("num_prefill_tokens", "num_decode_tokens", "arrived_at"),
    "vidur-lengths": TraceFormat("num_prefill_tokens", "num_decode_tokens"),
    "burstgpt": TraceFormat("Request tokens", "Response tokens", "Timestamp", session="Session ID"),
    "mooncake": _hashed_blocks(Clock.MILLISECONDS, 512),
    "bailian": replace(
        _hashed_blocks(Clock.SECONDS, 16, "chat_id"), session="chat_id", parent="parent_chat_id"
    ),
}
"""Mooncake and Bailian share field names but neither unit nor block size: only chat_id tells."""


def format_of(path: str, names: tuple[str, ...], *, json_lines: bool, asked: str | None) -> str:
    """The format's name: the one ``asked`` for, or the one whose fields are all among ``names``.

    Raises:
        UserError: no format fits, or not the one asked for.
    """
    if asked is not None:
        return _checked(path, names, json_lines, asked)
    kind = {name: row for name, row in FORMATS.items() if row.json_lines is json_lines}
    known = [name for name, row in kind.items() if set(row.recognised_by) <= set(names)]
    if known:
        return max(known, key=lambda name: len(kind[name].recognised_by))
    nearest = max(kind, key=lambda name: len(set(kind[name].recognised_by) & set(names)))
    if set(kind[nearest].recognised_by) & set(names):
        _require(path, nearest, names, kind[nearest].recognised_by)
    wanted = "; ".join(f"{name} ({', '.join(row.recognised_by)})" for name, row in kind.items())
    raise UserError(f"{path}:1: {_shown(names)}: not the fields of a known trace format: {wanted}")


def _checked(path: str, names: tuple[str, ...], json_lines: bool, asked: str) -> str:
    if asked not in FORMATS:
        near = difflib.get_close_matches(asked, FORMATS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--trace-format {asked!r} is not one of {', '.join(FORMATS)}{hint}")
    if FORMATS[asked].json_lines is not json_lines:
        found, wanted = ("JSON lines", "CSV") if json_lines else ("CSV", "JSON lines")
        raise UserError(f"{path}: is {found}, but a trace in the {asked} format is {wanted}")
    _require(path, asked, names, FORMATS[asked].required)
    return asked


def _require(path: str, format_name: str, names: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    signature = FORMATS[format_name].signature
    # Without its signature a time could be in another format's unit, so the user has to say which.
    hint = "" if set(missing) - set(signature) else "; if it is one, say so with --trace-format"
    is_missing = "is missing" if len(missing) == 1 else "are missing"
    raise UserError(
        f"{path}:1: {', '.join(missing)} {is_missing} for a {format_name} trace; "
        f"the fields are {_shown(names)}{hint}"
    )


def _shown(names: tuple[str, ...]) -> str:
    text = ", ".join(name if name.isprintable() and name else repr(name) for name in names)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
