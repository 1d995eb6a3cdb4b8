"""Values of serving modes as they are written: ``name=value,…``."""

from __future__ import annotations

from servecast.compiler.errors import UserError

MOST = 1e9
"""No time or share that is asked for is above it."""


def fields_of(what: str, text: str, known: tuple[str, ...]) -> dict[str, str]:
    """``name=value,…`` of these names.

    Raises:
        UserError: another name, or one without a value.
    """
    parts: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if name not in known or not equals:
            raise UserError(f"{what} {text!r}: {part!r} is not one of {'=, '.join(known)}=")
        parts[name] = value
    return parts


def number(what: str, text: str) -> float:
    """
    Raises:
        UserError: not a number, negative, or infinite.
    """
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{what} must be a number, got {text!r}") from None
    if not 0 <= value <= MOST:
        raise UserError(f"{what} must be from 0 to {MOST:g}, got {text}")
    return value


def whole(what: str, text: str, most: int) -> int:
    """
    Raises:
        UserError: not a whole number from 0 to ``most``.
    """
    if not text.isascii() or not text.isdigit() or len(text) > len(str(most)) or int(text) > most:
        raise UserError(f"{what} must be a whole number from 0 to {most}, got {text!r}")
    return int(text)
