"""Servecast in Python: its verbs as functions on values, loaded when they are first used.

``compile``, ``profile``, ``fit``, ``tables``, ``simulate``, ``search``, ``explain`` and ``report`` are what
the commands of those names do, without printing. ``load`` and ``read_trace`` make the values they take
from files, and ``frame`` gives results as Arrow, pandas or polars. All of it stands in `simulator/verbs.py`
and `simulator/frames.py`; importing this package loads neither, so that an agent stays light. The folder is
installed as ``servecast`` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servecast.simulator.frames import frame
    from servecast.simulator.verbs import (
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
    home = "servecast.simulator.frames" if name == "frame" else "servecast.simulator.verbs"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
