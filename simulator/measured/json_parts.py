"""Parts of a recording's JSON: a load generator's file may hold anything in their place."""

from __future__ import annotations

from typing import Any

from servecast.simulator.traffic.trace_fields import FieldError

_KINDS = {
    dict: "a JSON object",
    list: "a JSON list",
    str: "a JSON text",
    bool: "true or false",
    int: "a JSON number",
    float: "a JSON number",
}


def object_at(name: str, value: object) -> dict[str, Any]:
    """Raises: FieldError."""
    if not isinstance(value, dict):
        raise FieldError(f"{name} is {kind(value)}, not an object")
    return value


def list_at(name: str, value: object) -> list[Any]:
    """Raises: FieldError."""
    if not isinstance(value, list):
        raise FieldError(f"{name} is {kind(value)}, not a list")
    return value


def kind(value: object) -> str:
    """What JSON calls it."""
    return _KINDS.get(type(value), "null")
