"""LLMServingSim's recordings: vLLM in process, on the server's clock.

A folder with ``requests.csv``, ``meta.json`` (vLLM's settings) and ``timeseries.csv``; the prompts' token ids
are in ``../workloads/``, where the meta file's ``dataset_path`` names them.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.measured.json_parts import object_at
from servecast.simulator.measured.plain_csv import csv_requests
from servecast.simulator.measured.run import Curve, MeasuredRun, Setting, columns, json_object
from servecast.simulator.traffic.trace_fields import FieldError, finite_number, tokens
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

SIZES = ("tensor_parallel_size", "data_parallel_size", "max_num_seqs", "max_num_batched_tokens")
WHOLE = {"engine_kwargs": SIZES, "kv_cache": ("num_gpu_blocks",)}  # numbers in parts of meta.json
BLOCK_TOKENS = 16  # vLLM's KV block, within which it hashes prefixes


def read_folder(path: Path) -> MeasuredRun:
    """
    Raises:
        UserError: a file of the folder is not what it should be.
    """
    meta = _meta(path / "meta.json")
    workload, latencies_s = columns(path, "llmservingsim", csv_requests(path / "requests.csv"))
    settings, notes = _settings(meta)
    if meta["kv_cache"].get("enable_prefix_caching", True):
        prompts = path.parent / f"{meta.get('dataset_path', 'prompts.jsonl')}.gz"
        if prompts.is_file():
            workload = replace(workload, prefix=_prefix_blocks(prompts, workload))
        else:
            notes.append("the engine's prefix cache was on; its hits are not simulated")
    return MeasuredRun(
        workload,
        "server",
        latencies_s,
        settings=settings,
        notes=tuple(notes),
        async_scheduling=meta["scheduler_config"].get("async_scheduling"),
        engine="vllm",
        engine_version=str(meta.get("vllm_version", "")),
        curves=_curves(path / "timeseries.csv"),
    )


def _meta(path: Path) -> dict[str, Any]:
    """Its parts that are read, each an object, and its settings whole numbers.

    Raises:
        UserError: one is something else.
    """
    found = json_object(path)
    try:
        parts = {
            name: object_at(name, found.get(name) or {})
            for name in ("engine_kwargs", "kv_cache", "resolved_config")
        }
        scheduler = parts["resolved_config"].get("scheduler_config") or {}
        parts["scheduler_config"] = object_at("scheduler_config", scheduler)
        for part, names in WHOLE.items():
            told = {n: parts[part][n] for n in names if parts[part].get(n) is not None}
            parts[part] |= {name: _at_least_one(name, value) for name, value in told.items()}
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None
    return found | parts


def _at_least_one(name: str, value: object) -> int:
    number = tokens(name, value)
    if number < 1:
        raise FieldError(f"{name} is 0; it must be 1 or more")
    return number


def _settings(meta: dict[str, Any]) -> tuple[dict[str, Setting], list[str]]:
    """By the names of `simulate.Setup`, and what the recording leaves open."""
    asked = {name: value for name, value in meta["engine_kwargs"].items() if value is not None}
    names = {
        "tp": "tensor_parallel_size",
        "dp": "data_parallel_size",
        "max_num_seqs": "max_num_seqs",
        "max_batched_tokens": "max_num_batched_tokens",
    }
    settings: dict[str, Setting] = {o: asked[t] for o, t in names.items() if t in asked}
    if asked.get("enable_expert_parallel"):
        settings["ep"] = int(asked.get("tensor_parallel_size", 1)) * int(
            asked.get("data_parallel_size", 1)
        )
    blocks = meta["kv_cache"].get("num_gpu_blocks")
    if blocks is None:
        return settings, [
            "the recording does not tell its KV blocks: the planned number is simulated"
        ]
    return settings | {"kv_blocks": blocks}, []


def _prefix_blocks(path: Path, workload: Workload) -> PrefixBlocks | None:
    """Every prompt's blocks, numbered so that equal prefixes have equal numbers.

    Raises:
        UserError: the prompts are not those that were recorded.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        prompts = [json.loads(line)["input_tok_ids"] for line in file]
    if workload.origin is None or [len(p) for p in prompts] != workload.prompt_tokens.tolist():
        raise UserError(f"{path}: its prompts are not those of {workload.name}")
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    ids, offsets = [], [0]
    for prompt in prompts:
        before = -1
        for at in range(0, len(prompt) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = (before, tuple(prompt[at : at + BLOCK_TOKENS]))
            before = numbers.setdefault(block, len(numbers))
            ids.append(before)
        offsets.append(len(ids))
    return PrefixBlocks(BLOCK_TOKENS, np.array(offsets), np.array(ids, dtype=np.int64))


def _curves(path: Path) -> dict[str, Curve]:
    """By the second after the first arrival."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    try:
        at_s, running, waiting = (
            np.array([finite_number(name, row.get(name)) for row in rows])
            for name in ("t", "running", "waiting")
        )
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None
    if not rows:
        return {}
    return {"running": Curve(at_s, running), "waiting": Curve(at_s, waiting)}
