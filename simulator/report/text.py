"""Numbers as the report prints them; what does not exist is an en dash, never 0."""

from __future__ import annotations

from math import floor, log10

ABSENT = "–"
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, without an exponent, with thousands separated."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    places = digits - 1 - floor(log10(abs(value)))
    return f"{round(value, places):,.{max(places, 0)}f}"


def seconds(value: float | None) -> str:
    """A time in the unit that a person would say it in."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0 s"
    if abs(value) >= 120:
        return f"{number(value / 60)} min"
    return f"{number(value)} s" if abs(value) >= 1 else f"{number(value * 1e3)} ms"


def tick_number(value: float) -> str:
    """An axis label: a round number needs no trailing zeros."""
    return f"{value:,.10g}"


def tick_seconds(value: float) -> str:
    """An axis label for a time."""
    if value == 0:
        return "0"
    return f"{value:.10g} s" if value >= 1 else f"{value * 1e3:.10g} ms"


def tick_usd(value: float) -> str:
    """An axis label for money."""
    return f"${value:,.10g}"


def usd(value: float | None) -> str:
    """Dollars, to the cent from one dollar on."""
    if value is None:
        return ABSENT
    return f"${value:,.2f}" if abs(value) >= 1 or value == 0 else f"${number(value)}"


def percent(share: float | None) -> str:
    """A share of 1; small ones are not rounded to nothing."""
    if share is None:
        return ABSENT
    if 0 < share < 0.005:
        return "<1%"
    return f"{share:.0%}"


def size(num_bytes: float | None) -> str:
    """Bytes in binary units, as GPU memories are sold."""
    if num_bytes is None:
        return ABSENT
    unit = 0
    while abs(num_bytes) >= 1024 and unit < len(BINARY_UNITS) - 1:
        num_bytes /= 1024
        unit += 1
    return f"{number(num_bytes)} {BINARY_UNITS[unit]}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
