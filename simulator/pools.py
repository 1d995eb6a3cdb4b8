"""The engine's memory: arrays of records that runs use again, or lists of objects for plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.state import (
    Lane,
    Limits,
    Replica,
    Request,
    Run,
    Segment,
    Simulation,
    Step,
    Tables,
)
from servecast.simulator.workload import Workload

Array = NDArray[Any]  # structured, or of ints or floats

# One run's requests, tokens and steps stay below 2**31; the counters of Run and Replica need not.
_WIDE = (Run, Replica)
_FIRST_STEPS_PER_REQUEST = 4  # near capacity a request takes about 3


def record_dtype(record: type) -> np.dtype[Any]:
    """The fields of one of the state's dataclasses as a C struct, read as attributes."""
    integer = "i8" if record in _WIDE else "i4"
    struct = [(f.name, "f8" if f.type == "float" else integer) for f in fields(record)]
    return np.dtype((np.record, np.dtype(struct, align=True)))


def records(record: type, count: int) -> Array:
    """``count`` records with the dataclass's defaults."""
    array = np.empty(count, record_dtype(record))
    array[:] = tuple(f.default for f in fields(record))
    return array


def as_records(record: type, rows: Sequence[Any]) -> Array:
    """Objects as records; records as they are."""
    if isinstance(rows, np.ndarray):
        return rows
    return np.array([astuple(row) for row in rows], record_dtype(record))


def as_lists(sim: Simulation) -> Simulation:
    """The same state as lists of objects and numbers."""
    types = {"run": Run, "replicas": Replica, "lanes": Lane, "requests": Request}
    logs = {"steps": Step, "segments": Segment}
    lists: dict[str, Any] = {}
    for name, value in sim._asdict().items():
        if name in types:
            lists[name] = [types[name](*row) for row in value.tolist()]
        elif name in logs:
            lists[name] = [logs[name]() for _ in value]
        elif isinstance(value, np.ndarray):
            lists[name] = value.tolist()
    flat = sim.tables._asdict().items()
    tables = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in flat}
    return sim._replace(**lists, tables=Tables(**tables))


def tables_view(tables: RuntimeTables) -> Tables:
    """The tables flattened; no copy if they are contiguous."""

    def flat(array: Array) -> Any:  # the engine indexes arrays as it does lists
        return np.ascontiguousarray(array, np.float64).reshape(-1)

    return Tables(
        token_s=flat(tables.token_s),
        sequence_s=flat(tables.sequence_s),
        prefill_s=flat(tables.prefill_s),
        prefill_base_s=flat(tables.prefill_base_s),
        decode_s=flat(tables.decode_s),
        send_s=flat(tables.send_s),
        host_step_s=float(tables.host_step_s),
        per_context_step=1.0 / tables.context_step_tokens,
        per_chunk_step=1.0 / tables.chunk_step_tokens,
        per_kv_step=1.0 / tables.kv_step_tokens,
        num_tokens=tables.token_s.shape[1],
        num_sequences=tables.sequence_s.shape[1],
        num_contexts=tables.prefill_s.shape[1],
        num_chunks=tables.prefill_s.shape[2],
        num_kv=tables.decode_s.shape[2],
    )


class Pools:
    """Arrays by name that only ever grow, so that a search does not fault the same pages in again."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def _take(self, name: str, count: int, dtype: Any) -> Array:
        """``count`` elements with whatever the last run left in them."""
        array = self._arrays.get(name)
        if array is None or len(array) < count:
            array = self._arrays[name] = np.empty(count, dtype)
        return array[:count]

    def _filled(self, name: str, count: int, value: Any, dtype: Any) -> Array:
        array = self._take(name, count, dtype)
        array[:] = value
        return array

    def requests(
        self, workload: Workload, fits: NDArray[np.bool_], key: NDArray[np.int64]
    ) -> Array:
        """The requests that fit, as the engine takes them."""
        array = self._take("requests", len(key), record_dtype(Request))
        array[:] = astuple(Request())
        whole = len(key) == len(workload)
        columns = {
            "arrival_s": workload.arrival_s,
            "prompt": workload.prompt_tokens,
            "remaining": workload.output_tokens,
        }
        for name, column in columns.items():
            array[name] = column if whole else column[fits]
        array["key"] = key
        return array

    def simulation(
        self, run: Run, requests: Array, shape: tuple[Limits, Tables], replicas: int
    ) -> Simulation:
        """A fresh state around these requests."""
        limits, tables = shape
        lanes = replicas * limits.stages
        steps = max(_FIRST_STEPS_PER_REQUEST * len(requests), 1024)
        segments = limits.max_num_seqs * replicas + 1024
        pools = {
            "run": np.array([astuple(run)], record_dtype(Run)),
            "replicas": records(Replica, replicas),
            "lanes": records(Lane, lanes),
            "requests": requests,
            "steps": self._log("steps", steps, Step),
            "segments": self._log("segments", segments, Segment),
            "running": self._take("running", replicas * limits.max_num_seqs, "i4"),
            "waiting": self._take("waiting", replicas * limits.max_waiting, "i4"),
            "flights": self._take("flights", lanes, "i4"),
            "phase": self._filled("phase", lanes * limits.block_tokens, 0, "i4"),
            "calendar": self._filled("calendar", lanes * limits.days, -1, "i4"),
            "stage_free_s": self._filled("stage_free_s", lanes, 0.0, "f8"),
            "chunks_s": self._filled("chunks_s", limits.stages, 0.0, "f8"),
        }
        pools["replicas"]["free"] = limits.kv_blocks
        # The engine indexes arrays of records as it does lists of objects.
        return Simulation(limits=limits, tables=tables, **cast(dict[str, Any], pools))

    def _log(self, name: str, at_least: int, record: type) -> Array:
        """All that there is of a log's buffer."""
        self._take(name, at_least, record_dtype(record))
        return self._arrays[name]

    def with_longer_logs(self, sim: Simulation) -> Simulation:
        """The same state with twice the room in both logs."""
        steps = self._longer("steps", sim.steps, Step)
        return sim._replace(steps=steps, segments=self._longer("segments", sim.segments, Segment))

    def _longer(self, name: str, log: Any, record: Callable[[], Any]) -> Any:
        if isinstance(log, list):
            return log + [record() for _ in log]
        longer = np.empty(2 * len(log), log.dtype)
        longer[: len(log)] = log
        self._arrays[name] = longer
        return longer
