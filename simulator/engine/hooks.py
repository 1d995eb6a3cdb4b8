"""Decisions that functions of the user's take, called by the engine where there is something to decide.

* ``pick(waiting, requests, now_s)`` returns the place in ``waiting`` (request numbers, in no particular
  order, two at least) of the one to admit next.
* ``victim(running, requests, now_s)`` the place in ``running`` (the same, of those not in flight) of the one
  to preempt.
* ``budget(decodes, cached, waiting, now_s)`` the tokens that the batch may have, asked where something waits
  or is half prefilled: ``decodes`` requests, with ``cached`` KV tokens, have one each in any case, and it is
  never more than the limit nor less than one.

``requests`` has a column for each of `SEEN`: ``requests.prompt[i]``. Compiled, the engine calls them through
an address (`compiled.py`): a plain function costs microseconds a decision, one decorated with ``numba.njit``
nanoseconds. Interpreted, it is called as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import carray, types  # type: ignore[attr-defined]  # its stubs lack carray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.pools import record_dtype
from servecast.simulator.engine.state import (
    BUDGET,
    NONE,
    PICK,
    VICTIM,
    Request,
    Simulation,
    changed,
)

SEEN = ("arrival_s", "scheduled_s", "first_token_s", "prompt", "tokens", "preemptions", "client")
"""What a hook may know of a request: never its output. ``prompt`` is to be prefilled, ``tokens`` was sent."""

Decision = Callable[..., int]

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

    def __init__(self, door: int, function: Decision) -> None:
        self.door, self.function = door, function
        self.error: Exception | None = None
        self._callback = _SIGNATURE(self._called)
        self._pool: Any = None
        self._requests: Any = None
        self._base = 0

    def entry(self, sim: Simulation) -> Any:
        """What the engine calls: an address, or for plain Python the function that it needs there."""
        self.error = None
        self._pool, self._requests = sim.pool, columns_of(sim.requests)
        if not isinstance(sim.pool, np.ndarray):
            return self._tokens if self.door == BUDGET else self._place
        self._base = sim.pool.ctypes.data
        return ctypes.cast(self._callback, ctypes.c_void_p).value

    def _called(self, a: int, b: int, c: int, d: int, now_s: float) -> int:
        if self.door == BUDGET:
            return self._tokens(a, b, c, now_s)
        return self._place((a - self._base) // 4, d, now_s)

    def _tokens(self, decodes: int, cached: int, waiting: int, now_s: float) -> int:
        try:
            return max(int(self.function(decodes, cached, waiting, now_s)), 0)
        except Exception as error:  # any: it is raised again when the engine has stopped
            self.error = error
            return NONE

    def _place(self, first: int, count: int, now_s: float) -> int:
        try:
            place = int(self.function(self._pool[first : first + count], self._requests, now_s))
        except Exception as error:  # any, as above
            self.error = error
            return NONE
        if not 0 <= place < count:
            name, do = ("pick", "wait") if self.door == PICK else ("victim", "run")
            self.error = UserError(
                f"{name} returned {place}, and {count} requests {do}: 0 to {count - 1}"
            )
            return NONE
        return place


@cache
def compile_hook(door: int, function: Any) -> CompiledHook:
    """Once for each function in a process."""
    return CompiledHook(door, function)


class CompiledHook:
    """A function that numba compiles, behind an address."""

    error: Exception | None = None

    def __init__(self, door: int, function: Any) -> None:
        i8, f8 = types.int64, types.float64
        cfunc: Any = numba.cfunc
        if door == BUDGET:

            def tokens(decodes: int, cached: int, waiting: int, _: int, now_s: float) -> int:
                return max(int(function(decodes, cached, waiting, now_s)), 0)

            self._callback = cfunc(i8(i8, i8, i8, i8, f8))(tokens)
            return

        def place(among: Any, requests: Any, total: int, count: int, now_s: float) -> int:
            chosen = function(carray(among, count), carray(requests, total), now_s)
            return chosen if 0 <= chosen < count else NONE

        pointer: Any = types.CPointer
        pointers = pointer(types.int32), pointer(numba.from_dtype(_seen_dtype()))
        self._callback = cfunc(i8(*pointers, i8, i8, f8))(place)

    def entry(self, sim: Simulation) -> Any:
        return self._callback.address


def _seen_dtype() -> np.dtype[Any]:
    """A request's record with the fields of `SEEN` alone."""
    dtype = record_dtype(Request)
    fields = {name: dtype.fields[name] for name in SEEN}  # type: ignore[index]
    return np.dtype(
        {
            "names": list(fields),
            "formats": [f[0] for f in fields.values()],
            "offsets": [f[1] for f in fields.values()],
            "itemsize": dtype.itemsize,
        },
        align=True,
    )


Hooks = Mapping[int, PlainHook | CompiledHook]
"""By door: `PICK`, `VICTIM`, `BUDGET`."""


def attach(hooks: Hooks, sim: Simulation) -> Simulation:
    """The simulation with these in it, and what compiled `waiting.call_hook` needs."""
    if not hooks:
        return sim
    entries = [hooks[door].entry(sim) if door in hooks else 0 for door in (PICK, VICTIM, BUDGET)]
    if not isinstance(sim.pool, np.ndarray):
        return changed(sim, hooks=entries)
    requests: Any = sim.requests
    addresses: Any = np.array([*entries, sim.pool.ctypes.data, requests.ctypes.data])
    return changed(sim, hooks=addresses)
