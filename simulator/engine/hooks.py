"""Decisions that a function of the user's takes, called by the engine where there is something to decide.

``pick(waiting, requests, now_s)`` returns the place in ``waiting`` (request numbers, in no particular order,
two at least) of the one to admit next. ``requests`` has a column for each of `SEEN`: ``requests.prompt[i]``.
Compiled, the engine calls it through an address (`compiled.py`): a plain function costs microseconds a
decision, one decorated with ``numba.njit`` nanoseconds. Interpreted, it is called as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import carray, types  # type: ignore[attr-defined]  # its stubs lack carray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.pools import record_dtype
from servecast.simulator.engine.state import NONE, Request, Simulation, changed

SEEN = ("arrival_s", "scheduled_s", "first_token_s", "prompt", "tokens", "preemptions", "client")
"""What a hook may know of a request: never its output. ``prompt`` is to be prefilled, ``tokens`` was sent."""

Pick = Callable[..., int]

_SIGNATURE = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_double
)


class Columns(NamedTuple):
    """One sequence for each of `SEEN`, indexed by request number."""

    arrival_s: Sequence[float]
    scheduled_s: Sequence[float]
    first_token_s: Sequence[float]
    prompt: Sequence[int]
    tokens: Sequence[int]
    preemptions: Sequence[int]
    client: Sequence[int]


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute of objects."""

    rows: Sequence[Any]
    name: str

    def __getitem__(self, i: int) -> Any:
        return getattr(self.rows[i], self.name)


def columns_of(rows: Any) -> Columns:
    """Of records as views, of objects as they change."""
    columns: list[Any] = [
        rows[name] if isinstance(rows, np.ndarray) else Column(rows, name) for name in SEEN
    ]
    return Columns(*columns)


class PlainHook:
    """A plain function behind an address, or as it is; what it raised is kept, for C cannot pass it on."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.error: Exception | None = None
        self._callback = _SIGNATURE(self._called)
        self._waiting: Any = None
        self._requests: Any = None
        self._base = 0

    def attach(self, sim: Simulation) -> Simulation:
        """The simulation with this hook in it."""
        self.error = None
        self._waiting, self._requests = sim.pool, columns_of(sim.requests)
        if not isinstance(sim.pool, np.ndarray):
            return changed(sim, hooks=[self._decide])
        self._base = sim.pool.ctypes.data
        address = ctypes.cast(self._callback, ctypes.c_void_p).value
        return _with_addresses(sim, address or 0)

    def _called(self, waiting: int, requests: int, total: int, count: int, now_s: float) -> int:
        return self._decide((waiting - self._base) // 4, count, now_s)

    def _decide(self, first: int, count: int, now_s: float) -> int:
        try:
            place = int(self.pick(self._waiting[first : first + count], self._requests, now_s))
        except Exception as error:  # any: it is raised again when the engine has stopped
            self.error = error
            return NONE
        if not 0 <= place < count:
            self.error = UserError(
                f"pick returned {place}, and {count} requests wait: 0 to {count - 1}"
            )
            return NONE
        return place


@cache
def compile_hook(pick: Any) -> CompiledHook:
    """Once for each function in a process."""
    return CompiledHook(pick)


class CompiledHook:
    """A function that numba compiles, behind an address."""

    error: Exception | None = None

    def __init__(self, pick: Any) -> None:
        dtype = record_dtype(Request)
        fields = {name: dtype.fields[name] for name in SEEN}  # type: ignore[index]
        seen = np.dtype(
            {
                "names": list(fields),
                "formats": [f[0] for f in fields.values()],
                "offsets": [f[1] for f in fields.values()],
                "itemsize": dtype.itemsize,
            },
            align=True,
        )
        pointer: Any = types.CPointer
        pointers = pointer(types.int32), pointer(numba.from_dtype(seen))
        i8, f8 = types.int64, types.float64

        def called(waiting: Any, requests: Any, total: int, count: int, now_s: float) -> int:
            place = pick(carray(waiting, count), carray(requests, total), now_s)
            return place if 0 <= place < count else NONE

        self._callback = numba.cfunc(i8(*pointers, i8, i8, f8))(called)

    def attach(self, sim: Simulation) -> Simulation:
        return _with_addresses(sim, self._callback.address or 0)


def _with_addresses(sim: Simulation, function: int) -> Simulation:
    """What compiled `waiting.call_pick` needs."""
    pool: Any = sim.pool
    requests: Any = sim.requests
    hooks: Any = np.array([function, pool.ctypes.data, requests.ctypes.data])
    return changed(sim, hooks=hooks)
