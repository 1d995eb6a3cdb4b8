"""Results as tables of other libraries: Arrow, pandas or polars, whichever is asked for and installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from servecast.compiler.errors import UserError
from servecast.simulator.report.check import checked
from servecast.simulator.report.columns import request_columns
from servecast.simulator.report.pools import pool_request_columns
from servecast.simulator.simulate import Simulated
from servecast.simulator.simulate_pools import SimulatedPools

Kind = Literal["arrow", "pandas", "polars"]
LIBRARIES = {"arrow": "pyarrow", "pandas": "pandas", "polars": "polars"}
Row = Mapping[str, Any]


def frame(
    result: Simulated | SimulatedPools | Row | Sequence[object], kind: Kind = "pandas"
) -> Any:
    """A run's requests, an answer's ranking, or a list of rows, as a table of the library ``kind``.

    A ranking's nested figures become columns such as ``metrics.ttft_s.p90``; lists are left out.

    >>> import servecast
    >>> trace = servecast.read_trace("spec/traces/chat.csv", num_requests=50)
    >>> run = servecast.simulate("spec/llama.llm", trace, "llama-3.1-8b", max_num_seqs=64)
    >>> frame(run, "arrow").num_rows
    50
    >>> float(frame(run, "pandas")["ttft_s"].median()) > 0
    True
    >>> frame([{"gpu": "h100", "cost": {"usd": 2.5}}], "polars").columns
    ['gpu', 'cost.usd']

    Returns:
        a ``pyarrow.Table``, a ``pandas.DataFrame`` or a ``polars.DataFrame``.

    Raises:
        UserError: the library is not installed, or ``result`` is no table.
    """
    columns = _columns(result)
    library = _library(kind)
    if kind == "arrow":
        return library.table(columns)
    return library.DataFrame(columns)


def _columns(result: Simulated | SimulatedPools | Row | Sequence[object]) -> dict[str, Any]:
    if isinstance(result, Simulated):
        return dict(request_columns(result.records, result.workload))
    if isinstance(result, SimulatedPools):
        return dict(pool_request_columns(result.run, result.workload))
    rows = checked(result, "answer")["ranked"] if isinstance(result, Mapping) else result
    flat = [dict(_flat(row)) for row in rows if isinstance(row, Mapping)]
    if len(flat) < len(rows):
        raise UserError("a table is made of a run, an answer, or a list of dictionaries")
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}


def _flat(row: Row, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list | tuple):
            found.append((prefix + key, value))
    return found


def _library(kind: str) -> Any:
    if kind not in LIBRARIES:
        raise UserError(f"{kind!r} is no kind of table; there are {', '.join(LIBRARIES)}")
    try:
        return import_module(LIBRARIES[kind])
    except ModuleNotFoundError as error:
        name = LIBRARIES[kind]
        raise UserError(f"a table of {name} needs it: pip install {name}") from error
