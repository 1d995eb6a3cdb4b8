"""The edge of ``servecast workload``: a kind or a trace file becomes a workload, and a description of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servecast.compiler.errors import UserError
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.traffic.arrival_processes import Poisson, parse_arrivals, with_arrivals
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.kinds import KINDS, Draw, draw_workload
from servecast.simulator.traffic.scaling import scaled
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.traces import TraceOptions, read_trace
from servecast.simulator.traffic.workload import Workload

DEFAULT_REQUESTS = 10_000
DEFAULT_RATE_PER_S = 1.0

Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """The command line. ``subject`` is a kind or a file; None means as the kind or the file has it."""

    subject: str
    rate_per_s: float | None = None
    arrivals: str | None = None
    num_requests: int | None = None
    resample: int | None = None
    prompt_factor: float = 1.0
    output_factor: float = 1.0
    context_tokens: int | None = None
    format: str | None = None
    seed: int = 0


def make_workload(options: WorkloadOptions) -> Workload:
    """What the options ask for.

    Raises:
        UserError: an unknown kind that is no file either, a trace that is none, an option out of range.
    """
    workload = _drawn(options) if options.subject in KINDS else _read(options)
    if options.context_tokens is not None:
        workload = workload.drop_longer_than(options.context_tokens)
    return workload


def _drawn(options: WorkloadOptions) -> Workload:
    for name, value in (("--resample", options.resample), ("--trace-format", options.format)):
        if value is not None:
            raise UserError(f"{options.subject}: {name} is for traces; a kind is drawn anew")
    draw = Draw(
        options.num_requests or DEFAULT_REQUESTS,
        options.rate_per_s or DEFAULT_RATE_PER_S,
        parse_arrivals(options.arrivals) if options.arrivals else Poisson(),
        options.seed,
    )
    drawn = draw_workload(options.subject, draw)
    return scaled(drawn, options.prompt_factor, options.output_factor)


def _read(options: WorkloadOptions) -> Workload:
    path = Path(options.subject)
    if not path.exists():
        hint = did_you_mean(options.subject, KINDS)
        known = ", ".join(KINDS)
        raise UserError(
            f"{options.subject!r} is no file and no kind of workload{hint}; kinds are {known}"
        )
    asked = TraceOptions(
        format=options.format,
        rate_per_s=options.rate_per_s,
        seed=options.seed,
        num_requests=options.num_requests,
    )
    workload = read_trace(path, asked)
    if options.resample is not None:
        workload = bootstrap(workload, options.resample, options.seed)
    workload = scaled(workload, options.prompt_factor, options.output_factor)
    if options.arrivals:
        rate_per_s = options.rate_per_s or workload.rate_per_s
        return with_arrivals(workload, rate_per_s, parse_arrivals(options.arrivals), options.seed)
    if options.resample and options.rate_per_s:
        return workload.at_rate(options.rate_per_s)
    return workload


def describe_workload(workload: Workload) -> Row:
    """The JSON object that ``--json`` prints: the summary, and what a kind is drawn from."""
    kind = KINDS.get(workload.name) if workload.origin is None else None
    return {**asdict(describe(workload)), "kind": None if kind is None else asdict(kind)}


def describe_kinds() -> list[Row]:
    """Every kind with its statistics and their sources, as JSON."""
    return [{"name": name, **asdict(kind)} for name, kind in KINDS.items()]
