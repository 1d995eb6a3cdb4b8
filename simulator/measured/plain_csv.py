"""Our own CSV: a trace with measured latencies in seconds beside the lengths, on the client's clock."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from servecast.compiler.errors import UserError
from servecast.simulator.measured.run import LATENCIES, MeasuredRequest, MeasuredRun, columns
from servecast.simulator.traffic.trace_fields import FieldError, finite_number, tokens


def read_csv(path: Path) -> MeasuredRun:
    """
    Raises:
        UserError: a column is missing or a value wrong, with its line.
    """
    workload, latencies_s = columns(path, "csv", csv_requests(path))
    return MeasuredRun(workload, "client", latencies_s)


def csv_requests(path: Path) -> list[MeasuredRequest]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        prompt = "input_tokens" if "input_tokens" in names else "prompt_tokens"
        needed = ("arrival_s", prompt, "output_tokens")
        missing = [name for name in needed if name not in names]
        if missing or not {f"{metric}_s" for metric in LATENCIES} & set(names):
            lacks = ", ".join(missing) or "every latency (ttft_s, tpot_s, e2e_s, queue_delay_s)"
            raise UserError(f"{path}:1: a recording needs {lacks}")
        return [
            _csv_request(path, reader.line_num, dict(zip(names, fields, strict=False)), prompt)
            for fields in reader
            if fields
        ]


def _csv_request(path: Path, line: int, fields: Mapping[str, str], prompt: str) -> MeasuredRequest:
    try:
        arrival_s = finite_number("arrival_s", fields.get("arrival_s", ""))
        latencies_s = {
            metric: finite_number(f"{metric}_s", fields[f"{metric}_s"])
            for metric in LATENCIES
            if fields.get(f"{metric}_s")
        }
        if fields.get("scheduled_s") and "queue_delay" not in latencies_s:
            scheduled_s = finite_number("scheduled_s", fields["scheduled_s"])
            latencies_s["queue_delay"] = scheduled_s - arrival_s
        return MeasuredRequest(
            line,
            arrival_s,
            tokens(prompt, fields.get(prompt, "")),
            tokens("output_tokens", fields.get("output_tokens", "")),
            latencies_s,
        )
    except FieldError as error:
        raise UserError(f"{path}:{line}: {error}") from None
