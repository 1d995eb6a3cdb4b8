"""The 106 open-loop runs that APEX+ recorded on eight H100: settings, requests and means of each.

Arrivals and lengths are the recorded ones, ends of text included; one request of each run is not in its log.
The settings are those of the recording's own scripts (microsoft/apex_plus, vllm/*.sh, sglang/*.sh).

A run's numbers are its server's counters since the server began (vllm/trace.py, log_metrics). Some servers
were not started anew for each run: scale_*.sh ask one for three traces in a row, and Mistral's four with
two GPUs each went on from trace to trace: the sum of latencies only grows, and is not what the run's own
tokens took. Of those each run is what was added to the run before it.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servecast.simulator.traffic.workload import Workload

ONE_AFTER_THE_OTHER = {
    "scale": ("lmsys_05", "creation_05", "summarization_05"),
    "mistral 4DP2TP": (
        *("lmsys_05", "lmsys_025", "summarization_05"),
        *("summarization_025", "creation_05", "creation_025"),
    ),
}
"""In which order a server that was not started anew had its traces."""
FIRST_TOLD = {"vllm": 1, "sglang": 50}
"""Which token ends a recorded TTFT. These clients do not stream, and SGLang tells of a request that is not
streamed every fifty tokens (sglang 0.4.4, scheduler_output_processor_mixin.py,
DEFAULT_FORCE_STREAM_INTERVAL), or at its end."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row of runs.csv and its requests; TPOT None where the recording's is no TPOT (SGLang).

    ``tpot_s`` is the time of all tokens after the first of each request over all tokens, as the log has it.
    """

    name: str
    engine: str
    model: str
    tp: int
    ep: int
    workload: Workload | None  # None: its trace is not in the folder, and cannot be put together
    ttft_s: float
    tpot_s: float | None


def read_runs(folder: Path) -> list[Run]:
    with gzip.open(folder / "per_request_length_diffs.csv.gz", "rt") as file:
        changes: dict[tuple[str, str], tuple[int, int]] = {
            (row["run"], row["request_id"]): (int(row["prompt_diff"]), int(row["output_len_diff"]))
            for row in csv.DictReader(file)
        }
    with (folder / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    means_s = {row["run"]: means for server in _servers(rows) for row, means in _apart(server)}
    return [_run(folder, row, changes, means_s[row["run"]]) for row in rows]


def _servers(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows of each server, in its order. A row whose own latencies add up begins one."""
    in_order: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: _order(row).index(_traffic(row)) if _order(row) else 0):
        replica = row["run"].rpartition("_")[2]
        name = (row["model"], row["parallel"], replica) if _order(row) else row["run"]
        in_order[repr(name)].append(row)
    servers: list[list[dict[str, str]]] = []
    for found in in_order.values():
        for position, row in enumerate(found):
            if position == 0 or _adds_up(row):
                servers.append([])
            servers[-1].append(row)
    return servers


def _adds_up(row: dict[str, str]) -> bool:
    """Whether the run's first tokens and later ones take what its requests took in all, within 1 %."""
    first_s = float(row["ttft_mean_s"]) * (int(row["n_requests_logged"]) + 1)
    later_s = float(row["tpot_mean_s"]) * int(row["engine_output_sum"])
    return abs(first_s + later_s - float(row["sum_e2e_latency_s"])) < 0.01 * (first_s + later_s)


def _order(row: dict[str, str]) -> tuple[str, ...]:
    """Empty where the server had one trace."""
    if row["parallel"] in ("2TP", "4TP"):
        return ONE_AFTER_THE_OTHER["scale"]
    long = row["parallel"] == "4DP2TP" and row["model"].startswith("Mistral")
    return ONE_AFTER_THE_OTHER["mistral 4DP2TP"] if long else ()


def _traffic(row: dict[str, str]) -> str:
    """Such as lmsys_05."""
    return "_".join(Path(row["trace"]).stem.split("_")[:2])


def _apart(server: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], tuple[float, float]]]:
    """Each row with its own TTFT and TPOT, out of counters that go on."""
    requests = tokens = 0
    before_ttft_s = before_decoding_s = 0.0
    for row in server:
        new_requests, new_tokens = int(row["n_requests_logged"]) + 1, int(row["engine_output_sum"])
        requests, tokens = requests + new_requests, tokens + new_tokens
        ttft_s = float(row["ttft_mean_s"]) * requests
        decoding_s = float(row["tpot_mean_s"]) * tokens
        yield (
            row,
            (
                (ttft_s - before_ttft_s) / new_requests,
                (decoding_s - before_decoding_s) / new_tokens,
            ),
        )
        before_ttft_s, before_decoding_s = ttft_s, decoding_s


def _run(
    folder: Path,
    row: dict[str, str],
    changes: dict[tuple[str, str], tuple[int, int]],
    means_s: tuple[float, float],
) -> Run:
    degree = re.search(r"(\d)TP|tp_(\d)|ep_(\d)", row["parallel"])
    width = int(next(d for d in degree.groups() if d)) if degree else 1
    return Run(
        name=row["run"],
        engine=row["engine"],
        model=row["model"],
        tp=width,
        ep=width if row["parallel"].startswith("ep") else 1,
        workload=_workload(folder, row, changes),
        ttft_s=means_s[0],
        tpot_s=means_s[1] if row["engine"] == "vllm" else None,
    )


def _workload(
    folder: Path, row: dict[str, str], changes: dict[tuple[str, str], tuple[int, int]]
) -> Workload | None:
    """Planned lengths, and how far each answer was from its plan; as planned where the log lacks it."""
    requests = []
    lines = _trace(folder / "traces" / row["trace"].replace(".jsonl", ".csv"))
    if sum(int(line["input_tokens"]) for line in lines) != int(row["trace_prompt_sum"]):
        return None
    for line in lines:
        prompt, output = changes.get((row["run"], line["request_id"]), (0, 0))
        lengths = (
            int(line["input_tokens"]) + prompt,
            int(line["planned_output_tokens"]) + output,
        )
        requests.append((float(line["arrival_s"]), *(max(1, n) for n in lengths)))
    arrival_s, prompts, outputs = (
        np.array(column) for column in zip(*sorted(requests), strict=True)
    )
    return Workload(row["run"], arrival_s - arrival_s[0], prompts.astype(int), outputs.astype(int))


def _trace(path: Path) -> list[dict[str, str]]:
    """A trace; one that is not there is put together from those of four replicas, which took turns."""
    if path.is_file():
        with path.open() as file:
            return list(csv.DictReader(file))
    whole, _, half = path.stem.partition("_2DP4TP_")
    quarters = (int(half), int(half) + 2) if half else range(4)
    paths = [path.with_name(f"{whole}_4DP2TP_{quarter}.csv") for quarter in quarters]
    return [line for path in paths if path.is_file() for line in _trace(path)]
