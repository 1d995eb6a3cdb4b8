"""Servecast in Python: its verbs as functions on values, loaded when they are first used.

``compile``, ``profile``, ``fit``, ``tables``, ``simulate``, ``search``, ``explain`` and ``report`` are what
the commands of those names do, without printing. ``load`` and ``read_trace`` make the values they take
from files, and ``frame`` gives results as Arrow, pandas or polars. All of it stands in `verbs.py` and
`frames.py`; importing this package loads neither, so that an agent stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servecast.frames import frame
    from servecast.verbs import (
        compile,
        explain,
        fit,
        load,
        profile,
        read_trace,
        report,
        search,
        simulate,
        tables,
    )

__all__ = [
    "compile",
    "explain",
    "fit",
    "frame",
    "load",
    "profile",
    "read_trace",
    "report",
    "search",
    "simulate",
    "tables",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'servecast' has no attribute {name!r}")
    home = "servecast.frames" if name == "frame" else "servecast.verbs"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
