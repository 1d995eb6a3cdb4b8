"""The engine's functions compiled by numba: the same source, about 50 times faster."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba

from servecast.simulator import engine
from servecast.simulator.state import Simulation

# Nothing is allocated, so no reference is counted: that is 3 times faster. Not in numba's own stubs.
_OPTIONS: dict[str, Any] = {"cache": True, "_nrt": False}


def compile_engine() -> Callable[[Simulation], int]:
    """``engine.simulate_all`` compiled, or loaded from numba's cache beside the source.

    Each function gets the compiled others as its globals; the module itself stays plain Python. All are in
    one file because the cache notices changes of that file only.
    """
    namespace: dict[str, Any] = dict(vars(engine))
    for name, function in vars(engine).items():
        if isinstance(function, FunctionType) and function.__module__ == engine.__name__:
            plain = FunctionType(function.__code__, namespace, name)
            plain.__module__ = engine.__name__
            plain.__qualname__ = name
            namespace[name] = numba.njit(**_OPTIONS)(plain)
    compiled: Callable[[Simulation], int] = namespace["simulate_all"]
    return compiled
