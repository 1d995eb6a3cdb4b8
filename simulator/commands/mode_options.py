"""The options of ``servecast simulate`` that turn serving modes on: ``docs/serving-modes.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from servecast.compiler.errors import UserError
from servecast.simulator.commands.speculation_trace import read_speculation
from servecast.simulator.engine.modes import Modes, Speculation, parse_speculation

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--speculation",
        help="Draft and check tokens: 'draft=4,acceptance=0.8/0.7/0.6'.",
    ),
    click.option(
        "--speculation-trace",
        type=click.Path(path_type=Path, dir_okay=False),
        help="CSV of recorded checks: drafted,accepted.",
    ),
    click.option("--drafter", help="What drafts: mtp (one layer more), or a model of SPEC."),
)


def mode_options(command: Any) -> Any:
    """Adds them, in this order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_modes(options: dict[str, Any]) -> dict[str, Any]:
    """Takes them out of ``options``; what of a `Setup` they say.

    Raises:
        UserError: a value that is none, or two that contradict each other.
    """
    drafter = options.pop("drafter")
    speculation = _speculation(options, drafter)
    said: dict[str, Any] = {"modes": Modes(speculation=speculation)}
    if drafter:
        said["drafter"] = drafter
    return said


def _speculation(options: dict[str, Any], drafter: str | None) -> Speculation | None:
    text, trace = options.pop("speculation"), options.pop("speculation_trace")
    if text is None and trace is None:
        if drafter:
            raise UserError("--drafter without --speculation: say how many tokens it drafts")
        return None
    said = parse_speculation(text or "")
    if trace and text and ("draft=" in text or "acceptance=" in text):
        raise UserError("--speculation-trace with draft= or acceptance= in --speculation")
    if drafter and "cost=" in (text or ""):
        raise UserError("--drafter with cost= in --speculation: the drafter's kernels say its cost")
    return replace(said, trace=read_speculation(trace)) if trace else said
