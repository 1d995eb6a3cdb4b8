"""The edge of ``servecast explain``: what a result says, and what its search's command, read again, adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from servecast.compiler.errors import UserError
from servecast.estimator.load import TableLoader
from servecast.simulator.commands.search_cli import compile_and_search_command, job_options
from servecast.simulator.commands.search_job import (
    default_store,
    question_of,
    sources_of,
    workload_of,
)
from servecast.simulator.search.explain import Change, change, refused_aside, steps_aside
from servecast.simulator.search.explaining import Explaining

COMMAND = "compile-and-search"
Row = dict[str, Any]


def explained(result: Row, where: str, ranks: Sequence[int]) -> Row:
    """What ``--json`` prints: of one rank with its steps aside, or of two with the change between them.

    Raises:
        UserError: a rank that the result has not.
    """
    rows = [_ranked(result, rank, where) for rank in ranks]
    aside = [[_json(each) for each in steps_aside(result, row)] for row in rows]
    told: Row = {
        "rank": ranks[0],
        "binds": rows[0]["binds"],
        "changes": aside[0] if len(rows) == 1 else [_json(change(rows[0], rows[1]))],
        "refused": refused_aside(result, rows[0]) if len(rows) == 1 else [],
        "steps_aside": [
            {"rank": rank, "changes": each} for rank, each in zip(ranks, aside, strict=True)
        ],
    }
    explanations, unexplained = _explanations(result, list(zip(ranks, rows, strict=True)))
    return told | {"explanations": explanations, "unexplained": unexplained}


def _explanations(result: Row, asked: Sequence[tuple[int, Row]]) -> tuple[list[Row], str | None]:
    """Of each rank under each trace, and why others have none. The result has that of its best under one
    trace; for others the search's command is read again, which takes its files.
    """
    told = []
    anew = list(asked)
    stored = result.get("explanation")
    if stored is not None and any(rank == 1 for rank, _ in asked):
        row, name = result["ranked"][0], result["workload"].get("name", "")
        told.append({"rank": 1, "trace": name, "qps": row["qps"], "binds": row["binds"]} | stored)
        anew = [(rank, row) for rank, row in asked if rank != 1]
    try:
        reopened = _reopened(result) if anew else []
        for rank, row in anew:
            for each in reopened:
                of = {"rank": rank, "trace": each.workload.name}
                told.append(of | each.explanation(row))
    except UserError as error:
        return told, str(error)
    return sorted(told, key=lambda one: [rank for rank, _ in asked].index(one["rank"])), None


def _reopened(result: Row) -> list[Explaining]:
    """The search's question under each of its traces."""
    words = list(map(str, result["provenance"].get("command", ())))
    if COMMAND not in words:
        raise UserError(f"was not made by {COMMAND}, whose command could be read again")
    try:
        arguments = words[words.index(COMMAND) + 1 :]
        context = compile_and_search_command.make_context(COMMAND, arguments)
    except click.ClickException as error:
        raise UserError(
            f"the search's command is none any more: {error.format_message()}"
        ) from error
    options = job_options(context.params | {"ray": None, "jobs": None})
    question = question_of(options)
    loader = TableLoader(options.store or default_store(), sources_of(options.sources))
    traces = (options.trace, *options.more_traces)
    return [
        Explaining(question, workload_of(replace(options, trace=trace), question), loader)
        for trace in traces
    ]


def _json(each: Change) -> Row:
    return {**asdict(each), "axes": each.label}


def _ranked(result: Row, rank: int, where: str) -> Row:
    if rank > len(result["ranked"]):
        raise UserError(f"{where}: has {len(result['ranked'])} ranked configurations, not {rank}")
    row = result["ranked"][rank - 1]
    assert isinstance(row, dict)
    return row
