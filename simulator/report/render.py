"""A search result as one HTML page: no network, no script needed to read it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from servecast.simulator.report import curves, figures, headline, text, view
from servecast.simulator.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from servecast.simulator.report.check import METRICS, checked

FRAME = {
    "width": WIDTH,
    "height": HEIGHT,
    "left": LEFT,
    "right": WIDTH - RIGHT,
    "top": TOP,
    "bottom": HEIGHT - BOTTOM,
}


def render(result: Mapping[str, Any], where: str = "result") -> str:
    """The page for the object of ``docs/results.md``; equal results give equal bytes.

    Raises:
        UserError: ``result`` has not that shape; ``where`` is what the message calls it.
    """
    found = checked(result, where)
    page = _environment().from_string(_asset("report.html"))
    return page.render(
        result=found,
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
