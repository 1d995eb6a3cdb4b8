"""What a trace says of its requests beside arrivals and lengths: client, session and priority, as numbers."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from servecast.simulator.traffic.trace_fields import FieldError, shown, tokens
from servecast.simulator.traffic.workload import Ints


class Tags:
    """The columns gathered so far. Clients and sessions are numbered as they come, from 0."""

    def __init__(self) -> None:
        self._columns: dict[str, array[int]] | None = None
        self._numbers: dict[str, dict[object, int]] = {"client": {}, "session": {}}
        self._sessions = 0

    def add(self, tags: Mapping[str, object]) -> None:
        """One more request's; ``parent`` is the session field of the request that its session goes on from.

        Raises:
            FieldError: a row has other fields than those before it, or a priority that is no whole number.
        """
        said = {tag: value for tag, value in tags.items() if tag != "parent"}
        if self._columns is None:
            self._columns = {tag: array("q") for tag in said}
        if said.keys() != self._columns.keys():
            (odd, *_) = said.keys() ^ self._columns.keys()
            raise FieldError(f"has {'a' if odd in said else 'no'} {odd}, unlike the rows above it")
        for tag, value in said.items():
            self._columns[tag].append(self._number(tag, value, tags.get("parent")))

    def columns(self) -> dict[str, Ints]:
        """[requests] of each tag that the trace has."""
        return {tag: np.array(column) for tag, column in (self._columns or {}).items()}

    def _number(self, tag: str, value: object, parent: object) -> int:
        if tag == "priority":
            return tokens(tag, value)
        if isinstance(value, list | dict) or value in (None, ""):
            raise FieldError(f"{tag} {shown(value)} names nobody")
        numbers = self._numbers[tag]
        if tag == "client":
            return numbers.setdefault(value, len(numbers))
        if value not in numbers:
            known = isinstance(parent, str | int) and parent in numbers
            numbers[value] = numbers[parent] if known else self._sessions
            self._sessions += not known
        return numbers[value]
