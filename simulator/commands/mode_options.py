"""The options of ``servecast simulate`` that turn serving modes on: ``docs/serving-modes.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from servecast.compiler.errors import UserError
from servecast.simulator.commands.speculation_trace import read_speculation
from servecast.simulator.engine.lifecycle import parse_autoscaling, parse_loss
from servecast.simulator.engine.mode_text import number, whole
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.patience import Turns, parse_leaving
from servecast.simulator.engine.speculation import Speculation, parse_speculation

MOST_PLACES = 1_000_000
COUNT, SECONDS = click.IntRange(min=1), click.FloatRange(min=0)
FILE = click.Path(path_type=Path, dir_okay=False)
OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--dp", type=COUNT, help="Engines of a replica that share its experts."),
    click.option("--ep", type=COUNT, help="Expert-parallel degree."),
    click.option("--lock-step", is_flag=True, help="A replica's --dp engines step together."),
    click.option("--speculation", help="Draft and check: 'draft=4,acceptance=0.8/0.7/0.6'."),
    click.option("--speculation-trace", type=FILE, help="CSV of checks: drafted,accepted."),
    click.option("--drafter", help="What drafts: mtp (one layer more), or a model of SPEC."),
    click.option("--clients", type=COUNT, help="Closed loop: so many send one after the other."),
    click.option("--pause", "pause_s", type=SECONDS, help="Between a client's answer and request."),
    click.option("--ramp", "ramp_s", type=SECONDS, help="Over which the clients begin."),
    click.option("--turns", help="Next turns come SECONDS[:CV] after the session's answer."),
    click.option("--cancel", help="Clients leave: 'timeout=30', 'share=0.1,mean=5'."),
    click.option("--class-queues", help="As --max-queue by priority: '100/20'."),
    click.option("--lose", multiple=True, help="Lose a replica: '0@120+60' s, 60 s long; repeat."),
    click.option("--fail-lost", is_flag=True, help="What a lost replica had fails: no retry."),
    click.option("--autoscale", help="'most=8,least=1,target=64,provision=120'."),
    click.option("--blocking-sends", is_flag=True, help="A stage waits until its send is across."),
)


def mode_options(command: Any) -> Any:
    """Adds them, in this order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_modes(options: dict[str, Any], replicas: int | None) -> dict[str, Any]:
    """Takes them out of ``options``; what of a `Setup` they say beside ``replicas``, if those were said.

    Raises:
        UserError: a value that is none, or two that contradict each other.
    """
    names = ("drafter", "clients", "pause_s", "dp", "ep")
    said = {name: value for name in names if (value := options.pop(name)) is not None}
    autoscale, turns, queues = (options.pop(n) for n in ("autoscale", "turns", "class_queues"))
    cancel, lose, ramp_s = (options.pop(name) for name in ("cancel", "lose", "ramp_s"))
    lock_step, fail = options.pop("lock_step"), options.pop("fail_lost")
    _refuse_pairs(said, {"--lock-step": lock_step, "--fail-lost": fail, "--lose": lose})
    if autoscale and replicas:
        raise UserError("--autoscale with --replicas: most= and least= say how many there are")
    if autoscale and said.get("dp", 1) > 1:
        raise UserError("--autoscale with --dp: the engines of a replica come and go together")
    modes = Modes(
        speculation=_speculation(options, said.get("drafter")),
        lock_step=said["dp"] if lock_step else 1,
        leaving=parse_leaving(cancel) if cancel else None,
        turns=_turns(turns) if turns else None,
        class_queues=_places(queues) if queues else (),
        ramp_s=ramp_s or 0.0,
        losses=tuple(map(parse_loss, lose)),
        retry=not fail,
        scaling=parse_autoscaling(autoscale) if autoscale else None,
        blocking_sends=options.pop("blocking_sends"),
    )
    if modes.scaling:
        said["replicas"] = modes.scaling.most
    return {**said, "modes": modes}


def _refuse_pairs(said: dict[str, Any], flags: dict[str, Any]) -> None:
    """
    Raises:
        UserError: an option without the one that it belongs to.
    """
    if flags["--lock-step"] and said.get("dp", 1) < 2:
        raise UserError("--lock-step without --dp: it takes 2 engines or more")
    if flags["--fail-lost"] and not flags["--lose"]:
        raise UserError("--fail-lost without --lose: no replica is lost")
    if "pause_s" in said and "clients" not in said:
        raise UserError("--pause without --clients: requests come at the trace's times")


def _turns(text: str) -> Turns:
    think, _, cv = text.partition(":")
    return Turns(number("--turns", think), number("--turns' CV", cv or "1"))


def _places(text: str) -> tuple[int, ...]:
    return tuple(whole("--class-queues", each, MOST_PLACES) for each in text.split("/"))


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
