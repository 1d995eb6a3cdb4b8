"""The recommendation in words, for the page and the terminal alike. No markup."""

from __future__ import annotations

from typing import Any

from servecast.simulator.report.text import number, percent, plural, usd
from servecast.simulator.search.space import DECLARED, DEFAULT_POLICY, DEFAULT_ROUTER

Row = dict[str, Any]
USUAL = {"precision": DECLARED, "policy": DEFAULT_POLICY, "router": DEFAULT_ROUTER}
"""What goes without saying."""
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
    if traces := result.get("workloads"):
        load = f" under each of {plural(len(traces), 'trace')}"
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
    said = "; ".join(f"{name} on {_replicas(part)}" for name, part in parts) or _replicas(row)
    rules = [f"{name} {row[name]}" for name in USUAL if row.get(name, USUAL[name]) != USUAL[name]]
    return "; ".join([said[0].upper() + said[1:], *rules])


def degrees(row: Row) -> str:
    """``TP 2, PP 1``, with those of experts and of data-parallel attention where there are."""
    more = [f"{name.upper()} {row[name]}" for name in ("ep", "dp") if row.get(name, 1) > 1]
    return ", ".join([f"TP {row['tp']}", f"PP {row['pp']}", *more])


def place(row: Row) -> str:
    """``h100-sxm, TP 2, PP 1``, of each role where they are apart; what is not said of a row is any."""
    there = " → ".join(_place(part) for _, part in roles(row)) or _place(row)
    precision = row.get("precision", DECLARED)
    return there if precision == DECLARED else f"{there}, {precision}"


def _place(row: Row) -> str:
    there = [degrees(row)] if row.get("tp") is not None else []
    return ", ".join([str(row.get("sku", "any GPU")), *there])


def _replicas(row: Row) -> str:
    ranks = row.get("dp", 1)
    whose = " of each rank" if ranks > 1 else ""
    return (
        f"{plural(row['replicas'], 'replica')} of {plural(row['tp'] * row['pp'] * ranks, 'GPU')} "
        f"({degrees(row)}), at most {row['max_num_seqs']} sequences and "
        f"{row['max_batched_tokens']:,} tokens a step{whose}"
    )


def binding(row: Row) -> str:
    """What gives way first above capacity."""
    binds = row["binds"]
    target = f"{binds['slo']} breaks first" if binds.get("slo") else "no target breaks"
    return f"Above capacity {target}; {binds.get('detail', 'what is short is not known')}."


def worst_trace(row: Row) -> str | None:
    """Whose figures a row has, where it is the answer to several traces."""
    if row.get("worst_trace") is None:
        return None
    worst = next(each for each in row["traces"] if each["name"] == row["worst_trace"])
    there = plural(worst["replicas"], "replica")
    return f"Figures are those of {there} under {worst['name']}, the trace that is worst for it."


def cheaper_tie(result: Row) -> str | None:
    """What is not told from the best and costs less an hour: most requests per dollar may be many dollars."""
    best = result["best"]
    tied = [
        (row["usd_per_hour"], rank, row)
        for rank, row in enumerate(result["ranked"], 1)
        if row.get("tied_with_best") and row["usd_per_hour"] < best["usd_per_hour"]
    ]
    if not tied:
        return None
    dollars, rank, row = min(tied, key=lambda each: each[:2])
    return f"#{rank} is not told apart from it and costs {usd(dollars)} an hour ({gpus(row)})."


def carrying(result: Row) -> str | None:
    """How surely the best one's replicas carry the trace's rate, and what does as surely as was asked.

    None where it is not known, or where enough for an objective that is not of the rate.
    """
    best, question = result["best"], result["question"]
    if best.get("rate_confidence") is None:
        return None
    rate = f"{number(result['workload']['rate_per_s'])} requests per second"
    what = "each trace" if result.get("workloads") else rate
    carry = "carries" if best["replicas"] == 1 else "carry"
    said = f"{plural(best['replicas'], 'replica')} {carry} {what} with {_sure(best)} confidence"
    enough, asked = best["at_confidence"], percent(question["confidence"])
    if enough and enough["replicas"] == best["replicas"]:
        return f"{said}." if _is_of_the_rate(question) else None
    needs = f"as many as there are GPUs for have less than {asked}"
    if enough:
        needs = f"{asked} takes {_rented(enough)}"
    return f"{said}; {needs}.{_cheaper(result)}"


def _sure(row: Row) -> str:
    sure = row["rate_confidence"]
    return "over 99%" if sure > 0.99 else percent(sure)


def _rented(size: Row) -> str:
    """``3 replicas (6 GPUs, $17.94 an hour)``."""
    gpus, cost = plural(size["gpus"], "GPU"), usd(size["usd_per_hour"])
    return f"{plural(size['replicas'], 'replica')} ({gpus}, {cost} an hour)"


def _is_of_the_rate(question: Row) -> bool:
    return bool(question["objective"]["better"] == "lower")


def _cheaper(result: Row) -> str:
    """Which other configuration has the least once all are as sure; nothing where that is the best, too."""
    key, ranked = result["question"]["objective"]["key"], result["ranked"]
    sizes = {index: row.get("at_confidence") for index, row in enumerate(ranked)}
    known = {index: size[key] for index, size in sizes.items() if size and key in size}
    least = min(known, key=known.__getitem__, default=0)
    if least == 0 or (0 in known and known[0] <= known[least]):
        return ""
    row = ranked[least]
    name = f"#{least + 1} ({row['sku']} {degrees(row).replace(',', '')})"
    return f" The least for that is {name}: {_rented(row['at_confidence'])}."
