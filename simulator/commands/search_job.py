"""The main job's edge: reads the spec, the trace and the store that the options name, and plans."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console

from servecast.compiler.catalog import Spec, shipped_skus
from servecast.compiler.errors import DataMissingError, UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.load import load_spec
from servecast.compiler.service import Service, Slo
from servecast.compiler.suggest import did_you_mean
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.simulator.commands.search_view import shown
from servecast.simulator.metrics.attained import targets_from
from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.search.confidence import DEFAULT_CONFIDENCE
from servecast.simulator.search.dry_run import space_json
from servecast.simulator.search.market import (
    ON_DEMAND,
    Market,
    at_prices,
    check_known,
    priced,
)
from servecast.simulator.search.objective import objective_named
from servecast.simulator.search.plan import plan
from servecast.simulator.search.pool import Pool, local_pool
from servecast.simulator.search.precision import at_precision
from servecast.simulator.search.question import (
    DEFAULT_MAX_GPUS,
    DEFAULT_OBJECTIVE,
    Question,
    axes_of,
)
from servecast.simulator.search.robust import Weighted, check_weights, combined
from servecast.simulator.search.searching import Means
from servecast.simulator.search.servable import servable, servable_pairs
from servecast.simulator.search.space import AGGREGATED, Axes
from servecast.simulator.search.task import Demand
from servecast.simulator.traffic.traces import TraceOptions, read_trace
from servecast.simulator.traffic.workload import Workload

DEFAULT_SLOS = (Slo("ttft", 90, 2.0), Slo("tbt", 99, 0.2))
"""Where neither the spec nor the command line says any: an interactive chat."""
JOURNAL = "search.jsonl"
"""In the folder of the results, or beside the store where none is asked for."""
DEFAULT_SKUS = ("h100-sxm", "a100-sxm-80gb")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The main job's command line. ``asked`` holds the axes it names; None and empty mean not said."""

    spec: Path | Spec
    trace: Path | Workload
    asked: Service
    model: str | None = None
    service: str | None = None
    traffic: TraceOptions = field(default_factory=TraceOptions)
    prices: Mapping[str, float] = field(default_factory=dict)
    stock: Mapping[str, int] = field(default_factory=dict)
    whole_nodes: bool = False
    store: Path | None = None
    sources: tuple[str, ...] = ()
    jobs: int | None = None
    quiet: bool = False
    out: Path | None = None
    resume: bool = False
    best_only: bool = False
    judged: bool = True
    draw_all: bool = False
    confidence: float = DEFAULT_CONFIDENCE
    more_traces: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    robust: str = "worst"
    cluster: Callable[[Demand], Pool] | None = None


def run_job(options: JobOptions) -> dict[str, Any]:
    """The answer of ``docs/results.md``.

    Raises:
        UserError: the spec, the trace, the store or an option is wrong, or the model fits nowhere.
    """
    question = question_of(options)
    options = replace(options, store=options.store or default_store())
    if options.more_traces:
        return _robust_answer(options, question)
    (workload,) = workloads_of(options, question)
    return _answer(options, question, workload, JOURNAL)


def _robust_answer(options: JobOptions, question: Question) -> dict[str, Any]:
    """One search for each trace, and the answer for all of them; for those that were done, after Ctrl-C."""
    workloads = workloads_of(options, question)
    weights = check_weights(len(workloads), options.weights)
    found: list[Weighted] = []
    kept: list[Path] = []
    for number, (workload, weight) in enumerate(zip(workloads, weights, strict=True), 1):
        name = f"{number}-{JOURNAL}"
        begun = any(_journals(options).glob(f"{Path(name).stem}*.jsonl"))
        resumed = replace(options, resume=options.resume and (begun or number == 1))
        try:
            result = _answer(resumed, question, workload, name, kept)
        except KeyboardInterrupt:
            if not found:
                raise
            break
        found.append(Weighted(workload.name, weight, result))
        if not result["complete"]:
            break
    answer = combined(found, question.objective, options.robust)
    if len(found) < len(workloads):
        return answer | {"complete": False}
    if answer["complete"]:
        for journal in kept:
            journal.unlink(missing_ok=True)
    return answer


def _answer(
    options: JobOptions,
    question: Question,
    workload: Workload,
    journal: str,
    kept: list[Path] | None = None,
) -> dict[str, Any]:
    assert options.store is not None
    with shown(Console(stderr=True), options.quiet) as view:
        means = Means(
            TableLoader(options.store, sources_of(options.sources)),
            view.watching(_pool_for(options)),
            view.report,
            journal=_journals(options) / journal,
            kept=kept,
            resume=options.resume,
            best_only=options.best_only,
            judged=options.judged,
            draw_all=options.draw_all,
        )
        return plan(question, workload, means, _versions())


def _journals(options: JobOptions) -> Path:
    assert options.store is not None
    return options.out or options.store.parent


def describe_space(options: JobOptions) -> dict[str, Any]:
    """What ``run_job`` would search: each axis with its size, and what of it cannot run.

    Raises:
        UserError: as ``run_job``, but for the store, which is not opened.
    """
    question = question_of(options)
    spaces = []
    for workload in workloads_of(options, question):
        tokens = workload.mean_sequence_tokens
        space = servable(question.space(tokens), workload)
        apart = servable_pairs(question.pairings(tokens))
        found = space_json(question, space, apart)
        spaces.append({"name": workload.name, **found})
    first = {name: value for name, value in spaces[0].items() if name != "name"}
    if len(spaces) == 1:
        return first
    keys = ("name", "to_search", "refused")
    return {**first, "traces": [{key: space[key] for key in keys} for space in spaces]}


def workloads_of(options: JobOptions, question: Question) -> list[Workload]:
    """Of every trace.

    Raises:
        UserError: a trace is wrong, or what is said of several fits one alone, or the other way round.
    """
    traces = (options.trace, *options.more_traces)
    check_weights(len(traces), options.weights)
    if options.best_only and options.more_traces:
        raise UserError(
            "--best-only: the best of several traces may be the best of none; leave it out"
        )
    return [workload_of(replace(options, trace=trace), question) for trace in traces]


def workload_of(options: JobOptions, question: Question) -> Workload:
    workload = options.trace
    if isinstance(workload, Path):
        workload = read_trace(workload, options.traffic)
    workload.check_context(question.program.context_tokens)
    targets_from(question.slos).check(workload)
    return workload


def _pool_for(options: JobOptions) -> Callable[[Demand], Pool]:
    if options.cluster is not None:
        return options.cluster
    jobs = options.jobs or os.cpu_count() or 1
    return lambda demand: local_pool(demand, jobs)


def sources_of(asked: tuple[str, ...]) -> tuple[str, ...]:
    for source in asked:
        if source not in DEFAULT_SOURCES:
            hint = did_you_mean(source, DEFAULT_SOURCES)
            known = ", ".join(DEFAULT_SOURCES)
            raise UserError(f"--source: no source {source!r}{hint}; there are {known}")
    return asked or DEFAULT_SOURCES


def default_store() -> Path:
    """The per-user profile store, made on first use."""
    folder = Path(platformdirs.user_cache_dir("servecast"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{folder}: cannot be made for the profile store: {error.strerror}"
        raise DataMissingError(f"{why}; name another place with --store") from error
    return folder / "profiles.duckdb"


def question_of(options: JobOptions) -> Question:
    spec = options.spec if isinstance(options.spec, Spec) else load_spec(options.spec)
    service = _service(spec, options.service)
    axes = axes_of(service, options.asked, DEFAULT_SKUS)
    skus = _skus({**shipped_skus(), **spec.skus}, axes, service, options)
    check_known(options.stock, skus, "--stock")
    said = service.slos if service else ()
    asked_there = service.objective if service else None
    max_gpus = options.asked.max_gpus or (service.max_gpus if service else None)
    market = Market(max_gpus or DEFAULT_MAX_GPUS, options.stock, options.whole_nodes)
    return Question(
        programs={name: at_precision(spec, options.model, name) for name in axes.precisions},
        skus=skus,
        axes=axes,
        slos=options.asked.slos or said or DEFAULT_SLOS,
        market=market,
        seed=options.traffic.seed,
        objective=objective_named(options.asked.objective or asked_there or DEFAULT_OBJECTIVE.name),
        confidence=options.confidence,
        several_traces=bool(options.more_traces),
    )


def _skus(
    skus: Mapping[str, Sku], axes: Axes, service: Service | None, options: JobOptions
) -> dict[str, Sku]:
    """At the kind of prices asked for, and at those that are said one by one."""
    kind = options.asked.price_kind or (service.price_kind if service else None) or ON_DEMAND
    together = axes.skus if AGGREGATED in axes.modes else ()
    searched = {*together, *axes.prefill_skus, *axes.decode_skus} - set(options.prices)
    return priced(at_prices(skus, kind, searched), options.prices)


def _service(spec: Spec, name: str | None) -> Service | None:
    """The service block asked for, else the spec's first, else none."""
    if name is None:
        return next(iter(spec.services.values()), None)
    if name not in spec.services:
        hint = did_you_mean(name, spec.services)
        known = ", ".join(spec.services) or "none"
        raise UserError(f"{spec.path}: no service {name!r}{hint}; it declares {known}")
    return spec.services[name]


def _versions() -> dict[str, Any]:
    return {
        "servecast_version": version("servecast"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def asked_slos(texts: tuple[str, ...]) -> tuple[Slo, ...]:
    """
    Raises:
        UserError: no target.
    """
    return tuple(slo_of(text) for text in texts)
