"""What a result must have to be reported: a file from elsewhere is refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from servecast.compiler.errors import UserError

SCHEMA_VERSION = 1

KEYS: Mapping[str, type] = {
    "ranked": list,
    "infeasible": list,
    "workload": dict,
    "question": dict,
    "provenance": dict,
}
METRICS = ("ttft_s", "tbt_s", "tpot_s", "e2e_s", "queue_delay_s")
STATISTICS = ("p50", "p90", "p95", "p99", "max", "mean")

ROW_NUMBERS = (
    "tp",
    "pp",
    "replicas",
    "gpus",
    "usd_per_hour",
    "max_num_seqs",
    "max_batched_tokens",
    "qps_per_replica",
    "qps",
    "qps_per_usd_hour",
    "usd_per_million_output_tokens",
)


def checked(result: object, where: str) -> dict[str, Any]:
    """The result itself, once it is known to have the shape of ``docs/results.md``.

    Raises:
        UserError: it has not, naming the first part that is missing or wrong.
    """
    if not isinstance(result, dict) or "schema_version" not in result:
        raise UserError(f"{where}: is not a search result; see docs/results.md")
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema_version is {version!r}; this Servecast reads {SCHEMA_VERSION}"
        )
    for key, kind in KEYS.items():
        _expect(result, key, kind, where)
    for index, row in enumerate(result["ranked"]):
        _check_row(row, f"{where}: ranked[{index}]")
    for index, row in enumerate(result["infeasible"]):
        _expect(_mapping(row, f"{where}: infeasible[{index}]"), "reason", str, where)
    if result.get("best") is not None:
        _check_row(result["best"], f"{where}: best")
    _check_workload(result["workload"], f"{where}: workload")
    _expect(result["question"], "model", str, f"{where}: question")
    _expect(result["question"], "slos", list, f"{where}: question")
    return result


def _check_row(row: object, where: str) -> None:
    fields = _mapping(row, where)
    _expect(fields, "sku", str, where)
    _numbers(fields, ROW_NUMBERS, where)
    bounds = fields.get("qps_interval")
    if bounds is not None and not (
        isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds))
    ):
        raise UserError(f"{where}: qps_interval is {bounds!r}, not two numbers")
    for name in ("metrics", "memory", "binds", "time_by_source"):
        _expect(fields, name, dict, where)
    _numbers(fields["memory"], ("kv_blocks", "block_tokens", "kv_bytes", "total_bytes"), where)
    _expect(fields["memory"], "terms", dict, f"{where}: memory")
    for metric in METRICS:
        _expect(fields["metrics"], metric, dict, f"{where}: metrics")
        for statistic in STATISTICS:
            value = fields["metrics"][metric].get(statistic)
            if value is not None and not _is_number(value):
                raise UserError(f"{where}: {metric} {statistic} is {value!r}, not a number")


def _check_workload(workload: dict[str, Any], where: str) -> None:
    _numbers(workload, ("num_requests", "span_s"), where)
    for lengths in ("prompt_tokens", "output_tokens"):
        _expect(workload, lengths, dict, where)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {type(value).__name__}, not an object")
    return value


def _expect(fields: Mapping[str, Any], key: str, kind: type, where: str) -> None:
    if not isinstance(fields.get(key), kind):
        problem = f"is not a {kind.__name__}" if key in fields else "is missing"
        raise UserError(f"{where}: {key} {problem}; see docs/results.md")


def _numbers(fields: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if not _is_number(fields.get(key)):
            raise UserError(f"{where}: {key} is {fields.get(key)!r}, not a number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
