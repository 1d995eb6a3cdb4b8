"""A search result as one HTML page: no network, no script needed to read it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from servecast.simulator.report import curves, figures, headline, text, view
from servecast.simulator.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from servecast.simulator.report.check import METRICS, checked

NOTHING = Markup("")
FRAME = {
    "width": WIDTH,
    "height": HEIGHT,
    "left": LEFT,
    "right": WIDTH - RIGHT,
    "top": TOP,
    "bottom": HEIGHT - BOTTOM,
}


def render(result: Mapping[str, Any], where: str = "result", toolbar: Markup = NOTHING) -> str:
    """The page for the object of ``docs/results.md``, ``toolbar`` above it; equal results give equal bytes.

    Raises:
        UserError: ``result`` has not that shape; ``where`` is what the message calls it.
    """
    found = checked(result, where)
    page = _environment().from_string(_asset("report.html"))
    return page.render(
        result=found,
        toolbar=toolbar,
        best=found["best"],
        frame=FRAME,
        view=view,
        figures=figures,
        curves=curves,
        headline=headline,
        metrics=METRICS,
        style=Markup(_asset("report.css")),
        library=Markup(_asset("d3.min.js")),
        script=Markup(_asset("report.js")),
    )


def render_index(listed: Sequence[object], folder: str) -> str:
    """The page that lists results; each has ``name``, ``headline`` and ``is_result``."""
    page = _environment().from_string(_asset("ui.html"))
    return page.render(listed=listed, folder=folder, style=Markup(_asset("report.css")))


@cache
def _asset(name: str) -> str:
    return files("servecast.simulator.report").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name in ("number", "seconds", "usd", "percent", "size", "plural"):
        environment.filters[name] = getattr(text, name)
    return environment
