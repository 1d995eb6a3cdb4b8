"""A policy as a value: a name and parameters, written ``name`` or ``name:parameter=value,…``.

Orders of service (`orders.py`) and functions that decide (`picks.py`) run on the compiled engine, under vLLM
v1's batching; other ways to form batches (`schedulers.py`) run request by request. Parameters are the
keyword-only arguments of what the name stands for.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.engine.hooks import Decision, Hooks, PlainHook, compile_hook
from servecast.simulator.engine.orders import ORDERS, ranks
from servecast.simulator.engine.picks import BUDGETS, PICKS, VICTIMS
from servecast.simulator.engine.state import BUDGET, PICK, VICTIM
from servecast.simulator.reference.schedulers import SCHEDULERS
from servecast.simulator.reference.vllm_v1_scheduler import BATCHING
from servecast.simulator.traffic.workload import Workload

POLICIES: Mapping[str, Callable[..., Any]] = ChainMap(SCHEDULERS, PICKS, VICTIMS, BUDGETS, ORDERS)
"""Every policy by name."""
_DOORS = {PICK: PICKS, VICTIM: VICTIMS, BUDGET: BUDGETS}


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of `POLICIES` and the parameters that were said."""

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        said = ",".join(f"{name}={value:g}" for name, value in sorted(self.parameters.items()))
        return f"{self.name}:{said}" if said else self.name

    @property
    def is_order(self) -> bool:
        return self.name in ORDERS

    @property
    def decides(self) -> tuple[int, ...]:
        """The doors that it has a function for."""
        return tuple(door for door, rows in _DOORS.items() if self.name in rows)

    @property
    def is_compiled(self) -> bool:
        """The fast engine runs it: under vLLM v1's batching as it is."""
        return bool(self.decides) or (self.is_order and not self.batching)

    def decision(self, door: int) -> Decision | None:
        """The function for it, as plain Python."""
        asked: Any = _DOORS[door].get(self.name)
        plain: Decision | None = asked.py_func if isinstance(asked, Dispatcher) else asked
        return plain

    def hooks(self, *, compiled: bool) -> Hooks:
        """Its functions, for either way to run the engine."""
        return {
            door: compile_hook(door, asked)
            if compiled and isinstance(asked := _DOORS[door][self.name], Dispatcher)
            else PlainHook(door, plain)
            for door in self.decides
            if (plain := self.decision(door)) is not None
        }

    @property
    def batching(self) -> dict[str, float]:
        """What it changes in vLLM v1's batching."""
        return {k: v for k, v in self.parameters.items() if k in BATCHING and self.is_order}

    def keys(self, workload: Workload) -> NDArray[np.int64]:
        """Distinct integers, [requests]: smallest first. Arrival order where the policy is no order."""
        if not self.is_order:
            return np.arange(len(workload))
        said = {k: v for k, v in self.parameters.items() if k not in BATCHING}
        return ranks(ORDERS[self.name](workload, **said))


@lru_cache
def parse_policy(text: str) -> Policy:
    """
    Raises:
        UserError: no such policy or parameter, or a value that is no number of the right kind.
    """
    name, _, rest = text.partition(":")
    if name not in POLICIES:
        hint = did_you_mean(name, POLICIES)
        raise UserError(f"policy {name!r} is not one of {', '.join(POLICIES)}{hint}")
    return Policy(name, parse_parameters(f"policy {text!r}", rest, parameters_of(name)))


def parameters_of(name: str) -> dict[str, float]:
    """The policy's parameters and their defaults."""
    if name in ORDERS:  # though functions of the same name decide, too
        asked = keyword_parameters(ORDERS[name])
        return asked if any(name in rows for rows in _DOORS.values()) else asked | BATCHING
    return keyword_parameters(POLICIES[name])


def keyword_parameters(function: Callable[..., Any]) -> dict[str, float]:
    """Its keyword-only arguments and their defaults."""
    every = signature(function).parameters.values()
    return {p.name: p.default for p in every if p.kind is Parameter.KEYWORD_ONLY}


def parse_parameters(where: str, text: str, known: Mapping[str, float]) -> dict[str, float]:
    """``parameter=value,…`` as numbers of the kind that the defaults have.

    Raises:
        UserError: a parameter that is not known, or a value that is no such number.
    """
    parameters: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "it takes none"
            raise UserError(f"{where}: no parameter {name!r}{did_you_mean(name, known)}; {there}")
        kind = type(known[name])
        try:
            parameters[name] = kind(value)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(f"{where}: {name} must be {wanted}, got {value!r}") from None
        if not parameters[name] >= 0:
            raise UserError(f"{where}: {name} must be 0 or more, got {value}")
    return parameters
