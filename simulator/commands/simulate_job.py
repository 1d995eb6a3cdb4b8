"""The edge of ``servecast simulate``: reads spec, trace and store, writes the run's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.load import load_spec
from servecast.estimator.load import TableLoader
from servecast.simulator.commands.search_job import DEFAULT_SKUS, default_store
from servecast.simulator.report.parquet import write_requests, write_steps
from servecast.simulator.report.timeline import write_timeline
from servecast.simulator.simulate import Setup, Simulated, mtp_module, simulate_setup
from servecast.simulator.traffic.traces import TraceOptions, read_trace


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """The command line. ``configuration`` holds what of a `Setup` was said."""

    spec: Path
    trace: Path
    configuration: dict[str, Any]
    options: TraceOptions
    model: str | None = None
    store: Path | None = None


def run_simulation(asked: SimulateOptions) -> Simulated:
    """
    Raises:
        UserError: the spec, the trace, the store or an option is wrong, or the model does not fit.
    """
    spec = load_spec(asked.spec)
    program = spec.model(asked.model)
    said = {"sku": DEFAULT_SKUS[0], **asked.configuration}
    if drafter := said.get("drafter"):
        said["drafter"] = mtp_module(program) if drafter == "mtp" else spec.model(drafter)
    setup = Setup(program, **said)
    workload = read_trace(asked.trace, asked.options)
    workload.check_context(program.context_tokens)
    loader = TableLoader(asked.store or default_store())
    done = simulate_setup(setup, {**shipped_skus(), **spec.skus}, workload, loader)
    done.summary["provenance"] |= {
        "servecast_version": version("servecast"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    return done


def save_simulation(done: Simulated, folder: Path) -> None:
    """``summary.json``, ``requests.parquet``, ``steps.parquet``, ``timeline.json``; each whole or not at all.

    Raises:
        UserError: the folder cannot be written to.
    """
    writers: dict[str, Callable[[Path], object]] = {
        "requests.parquet": lambda path: write_requests(done.records, done.workload, path),
        "steps.parquet": lambda path: write_steps(done.records, path),
        "timeline.json": lambda path: _write_timeline(done, path),
        "summary.json": lambda path: path.write_text(summary_text(done) + "\n", encoding="utf-8"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            partial = folder / f"{name}.partial"
            write(partial)
            partial.replace(folder / name)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the run there: {error.strerror or error}"
        ) from error


def summary_text(done: Simulated) -> str:
    """The summary as the command prints it."""
    return json.dumps(done.summary, indent=2, allow_nan=False)


def _write_timeline(done: Simulated, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        write_timeline(done.records, file)
