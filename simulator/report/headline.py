"""The recommendation in words, for the page and the terminal alike. No markup."""

from __future__ import annotations

from typing import Any

from servecast.simulator.report.text import number, plural, usd

Row = dict[str, Any]


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
        f"Serve {question['model']}{load} on {best['gpus']} × {best['sku']} "
        f"for {usd(best['usd_per_hour'])} an hour."
    )


def shape(row: Row) -> str:
    """How a configuration is deployed, in words."""
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
