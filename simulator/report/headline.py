"""The recommendation in words, for the page and the terminal alike. No markup."""

from __future__ import annotations

from typing import Any

from servecast.simulator.report.text import number, plural, usd

Row = dict[str, Any]
ROLES = ("prefill", "decode")
"""Parts of a configuration that does them on GPUs of their own; others have no parts."""


def roles(row: Row) -> list[tuple[str, Row]]:
    """Name and part of each role; none where one engine does both."""
    return [(name, row[name]) for name in ROLES if row.get(name)]


def headline(result: Row) -> str:
    """The recommendation in one sentence, or that there is none and the first reason."""
    question, best = result["question"], result["best"]
    if best is None:
        reasons = result["infeasible"]
        why = reasons[0]["reason"] if reasons else "nothing was searched"
        targets = " and ".join(question["slos"]) or "its targets"
        return f"No configuration serves {question['model']} within {targets}: {why}."
    rate = result["workload"].get("rate_per_s")
    load = f" at {number(rate)} requests per second" if rate else ""
    return (
        f"Serve {question['model']}{load} on {gpus(best)} for {usd(best['usd_per_hour'])} an hour."
    )


def gpus(row: Row) -> str:
    """``2 × h100-sxm``, and each role's where they have GPUs of two kinds."""
    parts = roles(row)
    if len({part["sku"] for _, part in parts}) < len(ROLES):
        return f"{row['gpus']} × {row['sku']}"
    return " + ".join(f"{part['gpus']} × {part['sku']}" for _, part in parts)


def shape(row: Row) -> str:
    """How a configuration is deployed, in words."""
    parts = roles(row)
    if not parts:
        return _replicas(row)
    said = "; ".join(f"{name} on {_replicas(part)}" for name, part in parts)
    return said[0].upper() + said[1:]


def _replicas(row: Row) -> str:
    return (
        f"{plural(row['replicas'], 'replica')} of {plural(row['tp'] * row['pp'], 'GPU')} "
        f"(TP {row['tp']}, PP {row['pp']}), at most {row['max_num_seqs']} sequences and "
        f"{row['max_batched_tokens']:,} tokens a step"
    )


def binding(row: Row) -> str:
    """What gives way first above capacity."""
    binds = row["binds"]
    target = f"{binds['slo']} breaks first" if binds.get("slo") else "no target breaks"
    return f"Above capacity {target}; {binds.get('detail', 'what is short is not known')}."
