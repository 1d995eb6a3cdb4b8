"""The values of one field of a trace: numbers, lengths and times from a CSV's text or JSON's values."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

from servecast.simulator.traffic.trace_formats import Clock

MAX_TOKENS = 999_999_999
"""Longer than any context; a larger number is a mistake, and sums stay far from 64 bits."""

MAX_SECONDS = 1e10
"""Seconds since 1970 are within it; the squares of what is far beyond overflow."""

MAX_SHOWN_CHARS = 60
"""What a message quotes of a value; a quote that is never closed swallows the rest of a file."""


class FieldError(ValueError):
    """A field's value is not what its format says; the message lacks only the place."""


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."


def finite_number(name: str, value: object) -> float:
    """A finite number from a CSV field or a JSON value; Python's ``1_000`` is not one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(f"{name} {shown(value)} is not a number")
    try:
        odd = isinstance(value, str) and ("_" in value or not value.isascii())
        number = math.nan if odd else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        problem = "is empty" if value == "" else f"{shown(value)} is not a number"
        raise FieldError(f"{name} {problem}")
    return number


def tokens(name: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 10:
        return int(value)  # the usual case, and the only fast one
    number = finite_number(name, value)
    if number < 0:
        raise FieldError(f"{name} {value} is negative; a length is 0 tokens or more")
    if number != int(number):
        raise FieldError(f"{name} {value} is not a whole number of tokens")
    if number > MAX_TOKENS:
        raise FieldError(f"{name} {value} is more tokens than any model takes")
    return int(number)


def _seconds(name: str, value: object, per_second: float = 1.0) -> float:
    seconds = finite_number(name, value) / per_second
    if seconds < 0:
        raise FieldError(f"{name} {shown(value)} is negative; arrivals count from 0")
    if seconds > MAX_SECONDS:
        raise FieldError(
            f"{name} {shown(value)} is beyond {MAX_SECONDS:g} s; it is no arrival time"
        )
    return seconds


def _milliseconds(name: str, value: object) -> float:
    return _seconds(name, value, 1e3)


def _timestamps() -> Callable[[str, object], float]:
    """Seconds since the first date and time it is given, exact to the microsecond."""
    origin: datetime | None = None

    def since_first_s(name: str, value: object) -> float:
        nonlocal origin
        try:
            # Digits beyond the microsecond are cut: Azure's seventh tells no two requests apart.
            time = datetime.fromisoformat(str(value).strip())
            origin = origin or time
            return (time - origin).total_seconds()
        except ValueError:
            raise FieldError(f"{name} {shown(value)} is not an ISO 8601 date and time") from None
        except TypeError:
            raise FieldError(
                f"{name} {value}: times with and without a UTC offset are mixed"
            ) from None

    return since_first_s


CLOCKS: dict[Clock, Callable[[], Callable[[str, object], float]]] = {
    Clock.SECONDS: lambda: _seconds,
    Clock.MILLISECONDS: lambda: _milliseconds,
    Clock.TIMESTAMP: _timestamps,
}
