"""The engine's memory: arrays of records that runs use again, or lists of objects for plain Python."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.prefix_path import PrefixPath, prefix_path
from servecast.simulator.engine.state import (
    NONE,
    Block,
    CachedPrompt,
    Lane,
    PlainSimulation,
    Replica,
    Request,
    Run,
    Segment,
    Simulation,
    Stage,
    Step,
    changed,
)
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

Array = NDArray[Any]  # structured, or of ints or floats

_RECORDS = {
    "run": Run,
    "replicas": Replica,
    "lanes": Lane,
    "stages": Stage,
    "requests": Request,
    "prompts": CachedPrompt,
    "blocks": Block,
}
_OUTCOME = (
    *("arrival_s", "scheduled_s", "first_token_s", "finish_s", "prompt", "base", "last", "lane"),
    *("joined", "replica", "preemptions", "gone"),
)
_LOGS = {"steps": Step, "segments": Segment}

# One run's requests, tokens and steps stay below 2**31; the counters of Run and Replica need not.
_WIDE = (Run, Replica)
_FIRST_STEPS_PER_REQUEST = 4  # near capacity a request takes about 3
_FIRST_STEPS = 1024
_FORGOTTEN_STEPS = 256  # stay in the processor's first cache
_ROWS_AT_ONCE = 1024  # objects that stay in the processor's cache from column to column


@cache
def record_dtype(record: type) -> np.dtype[Any]:
    """The fields of one of the state's dataclasses as a C struct, read as attributes."""
    integer = "i8" if record in _WIDE else "i4"
    struct = [(f.name, "f8" if f.type == "float" else integer) for f in fields(record)]
    return np.dtype((np.record, np.dtype(struct, align=True)))


def records(record: type, count: int) -> Array:
    """``count`` records with the dataclass's defaults."""
    array = np.empty(count, record_dtype(record))
    array[:] = _blank(record)
    return array


@cache
def _blank(record: type) -> tuple[Any, ...]:
    return tuple(f.default for f in fields(record))


@cache
def _values(record: type) -> Callable[[Any], tuple[Any, ...]]:
    """Of an object's fields."""
    return attrgetter(*(f.name for f in fields(record)))


def as_records(record: type, rows: Sequence[Any]) -> Array:
    """Objects as records; records as they are."""
    if isinstance(rows, np.ndarray):
        return rows
    array = np.empty(len(rows), record_dtype(record))
    if len(rows) == 1:
        array[0] = _values(record)(rows[0])
        return array
    return _filled(array, [field.name for field in fields(record)], rows)


def outcome_of(rows: Sequence[Any], requests: Array) -> Array:
    """What a run leaves in its requests, in the records that it began with, which keep the rest."""
    return rows if isinstance(rows, np.ndarray) else _filled(requests, _OUTCOME, rows)


def _filled(array: Array, names: Sequence[str], rows: Sequence[Any]) -> Array:
    columns = [(array[name], attrgetter(name)) for name in names]
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        for column, value in columns:  # three times as fast as rows of tuples
            column[first : first + len(some)] = np.fromiter(
                map(value, some), column.dtype, len(some)
            )
    return array


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's garbage collector would look through all the lists again and again, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _empty_log(record: type, count: int) -> list[Any]:
    """Objects without any field, all of which are written before they are read."""
    return [object.__new__(record) for _ in range(count)]


def as_lists(sim: Simulation) -> Simulation:
    """The same state as lists of objects and numbers."""
    lists: dict[str, Any] = {}
    for name, value in sim._asdict().items():
        if name in _LOGS:
            lists[name] = _empty_log(_LOGS[name], len(value))
        elif name in _RECORDS:
            lists[name] = [_RECORDS[name](*row) for row in value.tolist()]
        else:
            lists[name] = value.tolist()
    return cast(Simulation, PlainSimulation(**lists))


class Pools:
    """Arrays by name that only ever grow, so that a search does not fault the same pages in again."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._tables: RuntimeTables | None = None  # those that the times were laid out from
        # Prompt and output lengths, which of them fit, and those requests.
        self._kept_requests: tuple[tuple[Array, Array], Array, Array] | None = None
        self._kept_path: tuple[PrefixBlocks | None, Array, int, PrefixPath] | None = None

    def _take(self, name: str, count: int, dtype: Any) -> Array:
        """``count`` elements with whatever the last run left in them."""
        array = self._arrays.get(name)
        if array is None or len(array) < count:
            array = self._arrays[name] = np.empty(count, dtype)
        return array[:count]

    def requests(
        self,
        workload: Workload,
        fits: NDArray[np.bool_],
        key: NDArray[np.int64],
        loaded: NDArray[np.int64] | None,
    ) -> Array:
        """The requests that fit, as the engine takes them."""
        array = self._take("requests", len(key), record_dtype(Request))
        array.view(np.uint8)[:] = self._fresh_requests(workload, fits).view(np.uint8)
        array["arrival_s"] = workload.arrival_s[fits]
        array["key"] = key
        if loaded is not None:
            array["loaded"] = loaded[fits]
        return array

    def _fresh_requests(self, workload: Workload, fits: NDArray[np.bool_]) -> Array:
        """With their lengths only: kept, since a search runs one workload at many rates."""
        lengths = (workload.prompt_tokens, workload.output_tokens)
        kept = self._kept_requests
        same = kept is not None and all(a is b for a, b in zip(kept[0], lengths, strict=True))
        if kept is not None and same and np.array_equal(kept[1], fits):
            return kept[2]
        fresh = records(Request, int(fits.sum()))
        fresh["prompt"], fresh["remaining"] = (column[fits] for column in lengths)
        fresh["tokens"] = fresh["prompt"]
        if workload.client is not None:
            fresh["client"] = workload.client[fits]
        self._kept_requests = (lengths, fits, fresh)
        return fresh

    def path(self, workload: Workload, block_tokens: int) -> PrefixPath:
        """The block hashes of the prompts: kept, since a search runs one workload at many rates."""
        prefix, prompt = workload.prefix, workload.prompt_tokens
        kept = self._kept_path
        if kept and kept[0] is prefix and kept[1] is prompt and kept[2] == block_tokens:
            return kept[3]
        found = prefix_path(workload, block_tokens)
        self._kept_path = (prefix, prompt, block_tokens, found)
        return found

    def prompts(self, path: PrefixPath | None, fits: NDArray[np.bool_]) -> Array:
        """What the prefix cache knows of the requests that fit, if there is one."""
        if path is None:
            return records(CachedPrompt, 0)
        array = records(CachedPrompt, int(fits.sum()))
        array["path"], array["num_blocks"] = path.begin[fits], path.num_blocks[fits]
        return array

    def _blocks(self, run: Run, replicas: int) -> Array:
        """Entries of the prefix caches, each replica's free list empty."""
        if not run.caching:
            return records(Block, 0)
        array = self._take("blocks", replicas * (run.kv_blocks + 1), record_dtype(Block))
        ends = np.arange(replicas) * (run.kv_blocks + 1)
        for way in ("before", "after"):
            array[way][ends] = ends
        return array

    def simulation(
        self, run: Run, requests: Array, prompts: Array, tables: RuntimeTables, replicas: int
    ) -> Simulation:
        """A fresh state around these requests."""
        lanes = replicas * run.num_stages
        times = self._lay_out_times(run, tables)
        pool = self._lay_out_pool(run, replicas)
        arrays: dict[str, Any] = {
            "run": as_records(Run, [run]),
            "replicas": records(Replica, replicas),
            "lanes": records(Lane, lanes),
            "stages": records(Stage, lanes),
            "requests": requests,
            "steps": self._steps(run, requests),
            "segments": self._log("segments", run.max_num_seqs + _FIRST_STEPS),
            "gaps": self._take("gaps", len(self._arrays["segments"]), np.dtype("f8")),
            "hooks": np.zeros(5, np.int64),
            "pool": pool,
            "times": times,
            "prompts": prompts,
            "blocks": self._blocks(run, replicas),
            "path": self._kept_path[3].numbers
            if run.caching and self._kept_path
            else np.empty(0, "i4"),
        }
        arrays["replicas"]["free"] = run.kv_blocks
        arrays["replicas"]["ratio"] = run.first_ratio
        # The engine indexes arrays of records as it does lists of objects.
        return Simulation(**arrays)

    def _lay_out_pool(self, run: Run, replicas: int) -> Array:
        lanes = replicas * run.num_stages
        run.waiting_at = replicas * run.max_num_seqs
        run.candidate_at = run.waiting_at + replicas * run.max_waiting
        run.phase_at = run.candidate_at + run.max_num_seqs * run.choosing_victims
        run.calendar_at = run.phase_at + lanes * run.block_tokens
        run.held_at = run.calendar_at + lanes * run.days
        seats = replicas * run.max_num_seqs * run.caching
        run.place_at = run.held_at + seats * run.max_path
        run.bucket_at = run.place_at + seats
        size = run.bucket_at + replicas * run.num_buckets * run.caching
        pool = self._take("pool", size, "i4")
        pool[run.phase_at : run.calendar_at] = 0
        pool[run.calendar_at : run.held_at] = NONE
        pool[run.place_at : run.bucket_at] = np.arange(seats)
        pool[run.bucket_at :] = NONE
        return pool

    def _lay_out_times(self, run: Run, tables: RuntimeTables) -> Array:
        """The tables one after another; kept while the same tables are asked for."""
        parts = {
            "token_at": tables.token_s,
            "sequence_at": tables.sequence_s,
            "prefill_at": tables.prefill_s,
            "prefill_base_at": tables.prefill_base_s,
            "decode_at": tables.decode_s,
            "send_at": tables.send_s,
            "mixed_at": tables.mixed_s,
            "mixed_chunk_at": tables.mixed_chunk_tokens,
        }
        begin = 0
        for name, part in parts.items():
            setattr(run, name, begin)
            begin += part.size
        if self._tables is not tables:
            self._arrays["times"] = np.concatenate([part.ravel() for part in parts.values()])
            self._tables = tables
        return self._arrays["times"]

    def _steps(self, run: Run, requests: Array) -> Array:
        if run.forgetting:
            return self._log("steps", _FORGOTTEN_STEPS)[:_FORGOTTEN_STEPS]
        return self._log("steps", max(_FIRST_STEPS_PER_REQUEST * len(requests), _FIRST_STEPS))

    def _log(self, name: str, at_least: int) -> Array:
        """All that there is of a log's buffer."""
        self._take(name, at_least, record_dtype(_LOGS[name]))
        return self._arrays[name]

    def with_longer_logs(self, sim: Simulation) -> Simulation:
        """The same state with more room in both logs."""
        longer = {name: self._longer(name, getattr(sim, name)) for name in _LOGS}
        gaps: Any = sim.gaps
        if isinstance(gaps, list):
            longer["gaps"] = gaps + [0.0] * (len(longer["segments"]) - len(gaps))
        else:
            longer["gaps"] = self._arrays["gaps"] = np.resize(gaps, len(longer["segments"]))
        return changed(sim, **longer)

    def _longer(self, name: str, log: Any) -> Any:
        if isinstance(log, list):
            return log + _empty_log(_LOGS[name], len(log) // 2)
        longer = np.empty(2 * len(log), log.dtype)
        longer[: len(log)] = log
        self._arrays[name] = longer
        return longer
