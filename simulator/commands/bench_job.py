"""The edge of ``servecast bench``: one search for each model and workload, each saved when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from servecast.compiler.catalog import Spec, shipped_skus
from servecast.compiler.errors import InfeasibleError, UserError, is_interrupt
from servecast.compiler.load import load_spec
from servecast.compiler.service import Service
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.commands.bench_table import Cell, Row, kept, summary
from servecast.simulator.commands.search_job import DEFAULT_SLOS, JobOptions, run_job
from servecast.simulator.commands.workload_job import WorkloadOptions, make_workload
from servecast.simulator.traffic.kinds import KINDS
from servecast.simulator.traffic.workload import Workload

MODELS = ("llama-3.1-8b", "internlm-20b", "llama-3.1-70b", "qwen-72b")
"""Vidur's four, its two Llama 2 models replaced by their successors."""
WORKLOADS = ("chat", "summarisation", "translation", "code", "agentic", "reasoning")
SKUS = ("a100-sxm-80gb", "h100-sxm")
QUICK_MODELS, QUICK_WORKLOADS = MODELS[:1], ("chat", "translation")

RATE_PER_S = 0.1
"""So little that every deployment is one replica: what is compared is a replica's requests per dollar."""

REQUESTS = 2_000
"""Drawn of a kind; capacities are found on resamples of them."""

AXES = Service(
    "bench",
    slos=DEFAULT_SLOS,
    tp=(1, 2, 4, 8),
    max_num_seqs=(64, 256),
    max_batched_tokens=(512, 2048, 8192),
)
QUICK_AXES = Service(
    "bench", slos=DEFAULT_SLOS, tp=(1,), max_num_seqs=(128,), max_batched_tokens=(512, 8192)
)

Progress = Callable[[int, int, str], None]  # searches done, in all, what is going on


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The command line. Empty tuples mean the standing ones."""

    out: Path
    models: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    skus: tuple[str, ...] = ()
    quick: bool = False
    store: Path | None = None
    sources: tuple[str, ...] = ()
    jobs: int | None = None
    seed: int = 0

    @property
    def axes(self) -> Service:
        axes = QUICK_AXES if self.quick else AXES
        return replace(axes, skus=self.skus)

    def with_standing(self) -> BenchOptions:
        """The same with the standing models, workloads and SKUs where none are said."""
        models, workloads = (QUICK_MODELS, QUICK_WORKLOADS) if self.quick else (MODELS, WORKLOADS)
        return replace(
            self,
            models=self.models or models,
            workloads=self.workloads or workloads,
            skus=self.skus or SKUS,
        )


def run_bench(options: BenchOptions, progress: Progress) -> Row:
    """All searches that the folder does not hold yet, and the results of all; of those done, after Ctrl-C.

    Raises:
        UserError: an unknown model, workload or SKU, before anything is searched; or a folder that
            cannot be written to.
        KeyboardInterrupt: no search was done before it.
    """
    options = options.with_standing()
    _check_skus(options.skus)
    specs = {name: _spec_of(name) for name in options.models}
    for workload in options.workloads:
        _traffic(options, workload)  # a wrong name is told before the first search
    grid = [(model, workload) for model in options.models for workload in options.workloads]
    cells: list[Cell] = []
    try:
        for model, workload in grid:
            progress(len(cells), len(grid), f"{model}, {workload}")
            cells.append(_cell(options, specs[model], model, workload))
        progress(len(grid), len(grid), "done")
    except (KeyboardInterrupt, RuntimeError) as error:
        if not (cells and is_interrupt(error)):
            raise
    complete = len(cells) == len(grid)
    return {"quick": options.quick, "complete": complete, **summary(cells, options.skus)}


def _cell(options: BenchOptions, spec: Spec, model: str, workload: str) -> Cell:
    """From the folder, or searched and saved there."""
    asked = _asked(options, model, workload)
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    path = options.out / f"{model}--{Path(workload).stem}--{digest}.json"
    if path.exists():
        return Cell(model, workload, tuple(json.loads(path.read_text(encoding="utf-8"))["ranked"]))
    traffic = _traffic(options, workload, spec.model(model).context_tokens)
    ranked = kept(_searched(options, spec, model, traffic))
    text = json.dumps({"asked": asked, "ranked": ranked}, indent=1, allow_nan=False)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written to: {error.strerror}") from error
    return Cell(model, workload, ranked)


def _asked(options: BenchOptions, model: str, workload: str) -> Row:
    """All that a cell's result depends on, but for the store's content."""
    return {
        "model": model,
        "workload": workload,
        "axes": asdict(options.axes),
        "seed": options.seed,
        "requests": REQUESTS,
        "sources": options.sources,
        "store": None if options.store is None else str(options.store),
        "servecast_version": version("servecast"),
    }


def _traffic(options: BenchOptions, workload: str, context_tokens: int | None = None) -> Workload:
    asked = WorkloadOptions(
        workload,
        rate_per_s=RATE_PER_S,
        num_requests=REQUESTS if workload in KINDS else None,
        context_tokens=context_tokens,
        seed=options.seed,
    )
    return make_workload(asked)


def _searched(options: BenchOptions, spec: Spec, model: str, workload: Workload) -> list[Row]:
    job = JobOptions(
        spec=spec,
        trace=workload,
        asked=options.axes,
        model=model,
        store=options.store,
        sources=options.sources,
        jobs=options.jobs,
        quiet=True,
        out=options.out,
        judged=False,
    )
    try:
        found = run_job(job)
    except InfeasibleError:
        return []
    if not found["complete"]:  # Ctrl-C: half a search is no cell
        raise KeyboardInterrupt
    ranked: list[Row] = found["ranked"]
    return ranked


def _check_skus(skus: tuple[str, ...]) -> None:
    known = shipped_skus()
    for name in skus:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"--sku: no SKU {name!r}{hint}; there are {', '.join(sorted(known))}")


def _spec_of(model: str) -> Spec:
    """The shipped spec that declares the model.

    Raises:
        UserError: none does.
    """
    known: list[str] = []
    for spec in _shipped_specs():
        if model in spec.models:
            return spec
        known += spec.models
    hint = did_you_mean(model, known)
    raise UserError(f"--model: no shipped model {model!r}{hint}; there are {', '.join(known)}")


def _shipped_specs() -> Iterator[Spec]:
    with resources.as_file(resources.files("servecast.spec")) as folder:
        for path in sorted(folder.glob("*.llm")):
            yield load_spec(path)
