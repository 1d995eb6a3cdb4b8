"""The eight verbs as functions on values. Files are only read where a path is given in a value's place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servecast.agent.security import ClientSecurity
from servecast.compiler.catalog import Spec, compile_text, shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.load import load_spec
from servecast.compiler.service import Service
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.estimator.load import TableLoader
from servecast.estimator.load_corrected import CorrectedTableLoader
from servecast.estimator.profiling.collect import Progress, collect, first_nodes
from servecast.estimator.profiling.plan import PlanLimits, plan_cases
from servecast.estimator.profiling.workers import Job
from servecast.estimator.report import fit_all, report_rows
from servecast.estimator.step_log import read_step_log
from servecast.estimator.store import Store
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.commands.search_job import JobOptions, asked_slos, default_store, run_job
from servecast.simulator.report.check import checked
from servecast.simulator.report.render import render
from servecast.simulator.search import explain as explaining
from servecast.simulator.search.explain import Change
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import Setup, Simulated, place, simulate_setup
from servecast.simulator.traffic.traces import TraceOptions
from servecast.simulator.traffic.traces import read_trace as read_trace_file
from servecast.simulator.traffic.workload import Workload

SpecLike = Spec | Path | str
TraceLike = Workload | Path | str
Row = dict[str, Any]
DEFAULT_SKU = "h100-sxm"


def load(source: Path | str) -> Spec:
    """The declarations of a `.llm` file, or of a `.llm` text (a string of more than one line).

    >>> spec = load("spec/llama.llm")
    >>> list(spec.models)[:2]
    ['llama-3.1-8b', 'llama-3.1-70b']

    Raises:
        UserError: it cannot be read, or is wrong somewhere.
    """
    if isinstance(source, str) and "\n" in source:
        return compile_text(source, "text")
    return load_spec(Path(source))


def read_trace(path: Path | str, **options: Any) -> Workload:
    """The workload in a trace file; ``options`` are the fields of `TraceOptions`.

    >>> trace = read_trace("spec/traces/chat.csv", num_requests=100)
    >>> len(trace)
    100

    Raises:
        UserError: the file is no trace, with the line where there is one.
    """
    return read_trace_file(Path(path), TraceOptions(**options))


def compile(
    spec: SpecLike, model: str | None = None, *, tp: int = 1, pp: int = 1, ep: int = 1, dp: int = 1
) -> ShardedProgram:
    """What each GPU of a replica runs, at degrees of tensor, pipeline, expert and data parallelism.

    >>> program = compile("spec/llama.llm", "llama-3.1-8b", tp=2)
    >>> len(program.stages), program.parallelism.gpus
    (1, 2)

    Raises:
        UserError: no such model, or a degree that does not divide.
    """
    return shard(_spec(spec).model(model), Parallelism(tp, pp, ep, dp))


def profile(  # noqa: PLR0913  # keywords, one option each
    programs: Sequence[ShardedProgram],
    agents: Sequence[str],
    store: Path | str,
    *,
    budget_s: float | None = None,
    limits: PlanLimits | None = None,
    rounds: int = 1,
    security: ClientSecurity | None = None,
) -> Progress:
    """Measure the kernels of ``programs`` that ``store`` lacks, with the agents at ``agents`` (host:port).

    All of them ``rounds`` times, a round after the other; from three on the median of a case's rows counts.

    >>> profile([compile("spec/llama.llm")], [], "profiles.duckdb")
    Traceback (most recent call last):
        ...
    servecast.compiler.errors.AgentError: no agent was given

    Raises:
        UserError: fewer rounds than one.
        AgentError: no agent answers.
    """
    if rounds < 1:
        raise UserError(f"profile: rounds must be at least 1, got {rounds}")
    cases = tuple(plan_cases(programs, limits or PlanLimits()))
    secured = security or ClientSecurity()
    job = Job(tuple(agents), cases, budget_s=budget_s, security=secured, rounds=rounds)
    first_nodes(job)  # before the store is made
    with Store.open(Path(store)) as opened:
        return collect(opened, job)


def fit(
    sku: str,
    store: Path | str | None = None,
    *,
    source: str = "silicon",
    held_out: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Fit a model of every kernel that ``store`` has of a GPU; one row a kernel.

    With ``held_out``, a fifth of the shapes (by ``seed``) is kept away from the models, and the rows
    are their errors on it.

    >>> fit("no-such-gpu")
    Traceback (most recent call last):
        ...
    servecast.compiler.errors.DataMissingError: ...

    Raises:
        DataMissingError: the store has nothing of that GPU from that source.
    """
    with Store.open(_store(store)) as opened:
        return report_rows(opened, sku, source, seed) if held_out else fit_all(opened, sku, source)


def tables(
    spec: SpecLike,
    model: str | None = None,
    *,
    store: Path | str | None = None,
    steps: Path | str | None = None,
    **setup: Any,
) -> RuntimeTables:
    """The predicted times of every step that a configuration can run; the rest is as for `simulate`.

    >>> found = tables("spec/llama.llm", "llama-3.1-8b", sku="h100-sxm", max_num_seqs=64)
    >>> found.num_stages
    1

    Raises:
        UserError: the model does not fit, or too little was measured.
    """
    loaded = _spec(spec)
    placement = place(_setup(loaded, model, setup), {**shipped_skus(), **loaded.skus})
    loader = _loader(store, steps)
    return loader.tables(placement.sharded, placement.sku, bounds(placement))


def simulate(
    spec: SpecLike,
    trace: TraceLike,
    model: str | None = None,
    *,
    store: Path | str | None = None,
    steps: Path | str | None = None,
    **setup: Any,
) -> Simulated:
    """One configuration under one trace. ``setup`` are the fields of `Setup`: ``sku``, ``tp``, ``pp``,
    ``max_num_seqs``, ``max_batched_tokens``, ``replicas``, ``router``, ``policy``, ``kv_blocks``. An
    engine's log of its ``steps`` corrects their times (docs/estimators.md).

    >>> trace = read_trace("spec/traces/chat.csv", num_requests=200)
    >>> run = simulate("spec/llama.llm", trace, "llama-3.1-8b", max_num_seqs=64)
    >>> run.summary["requests"]["finished"]
    200
    >>> 0 < run.summary["metrics"]["ttft_s"]["p50"] < 1
    True

    Raises:
        UserError: the model does not fit, or the trace or a setting is wrong.
    """
    loaded, workload = _spec(spec), _workload(trace)
    setting = _setup(loaded, model, setup)
    workload.check_context(setting.program.context_tokens)
    skus = {**shipped_skus(), **loaded.skus}
    if steps is not None and setting.drafter is not None:
        raise UserError("steps: a log of whole steps does not tell the drafter's time apart")
    return simulate_setup(setting, skus, workload, _loader(store, steps))


def search(
    spec: SpecLike,
    trace: TraceLike,
    model: str | None = None,
    *,
    slos: Sequence[str] = (),
    store: Path | str | None = None,
    jobs: int | None = None,
    **axes: Any,
) -> Row:
    """The ranked answer, the object of ``docs/results.md``. ``axes`` are the fields of `Service`: ``skus``,
    ``tp``, ``pp``, ``max_num_seqs``, ``max_batched_tokens``, ``max_gpus``, …

    >>> answer = search(
    ...     load("spec/llama.llm"), "spec/traces/chat.csv", "llama-3.1-8b", slos=["ttft p90 < 2 s"],
    ...     skus=("h100-sxm",), tp=(1,), max_num_seqs=(64,), max_batched_tokens=(512, 2048), jobs=1,
    ... )
    >>> answer["best"]["sku"], answer["best"]["tp"]
    ('h100-sxm', 1)
    >>> [change.label for change in explain(answer)]
    ['max_batched_tokens 512→2048']
    >>> report(answer).startswith("<!doctype html>")
    True

    Raises:
        UserError: a value is wrong, or the model fits on none of the GPUs asked for.
    """
    asked = Service("python", slos=asked_slos(tuple(slos)), **axes)
    options = JobOptions(
        spec=_spec(spec),
        trace=_workload(trace),
        asked=asked,
        model=model,
        store=_store(store),
        jobs=jobs,
        quiet=True,
    )
    return run_job(options)


def explain(answer: Row, rank: int = 1, other: int | None = None) -> list[Change]:
    """What one step aside from a configuration would change, or how two ranks differ.

    Raises:
        UserError: ``answer`` is no search result, or has no such rank.
    """
    row = _ranked(answer, rank)
    if other is not None:
        return [explaining.change(row, _ranked(answer, other))]
    return explaining.steps_aside(answer, row)


def report(answer: Row) -> str:
    """The answer as one HTML page that needs no network.

    Raises:
        UserError: ``answer`` is no search result.
    """
    return render(answer, "answer")


def _ranked(answer: Row, rank: int) -> Row:
    ranked = checked(answer, "answer")["ranked"]
    if not 1 <= rank <= len(ranked):
        raise UserError(f"answer: has {len(ranked)} ranked configurations, not {rank}")
    row: Row = ranked[rank - 1]
    return row


def _spec(spec: SpecLike) -> Spec:
    return spec if isinstance(spec, Spec) else load(spec)


def _workload(trace: TraceLike) -> Workload:
    return trace if isinstance(trace, Workload) else read_trace(trace)


def _setup(spec: Spec, model: str | None, setup: Row) -> Setup:
    return Setup(spec.model(model), **{"sku": DEFAULT_SKU, **setup})


def _store(store: Path | str | None) -> Path:
    return default_store() if store is None else Path(store)


def _loader(store: Path | str | None, steps: Path | str | None) -> TableLoader:
    if steps is None:
        return TableLoader(_store(store))
    return CorrectedTableLoader(_store(store), read_step_log(steps))
