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
from servecast.compiler.program import Program
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES
from servecast.estimator.load import TableLoader
from servecast.simulator.commands.pool_options import AskedPools
from servecast.simulator.commands.search_job import DEFAULT_SKUS, default_store
from servecast.simulator.report.columns import (
    Columns,
    operator_columns,
    request_columns,
    step_columns,
)
from servecast.simulator.report.parquet import write_columns
from servecast.simulator.report.pools import (
    pool_request_columns,
    pool_step_columns,
    write_pool_timeline,
)
from servecast.simulator.report.timeline import write_timeline
from servecast.simulator.simulate import Setup, Simulated, mtp_module, simulate_setup
from servecast.simulator.simulate_pools import (
    AskedLink,
    PoolsSetup,
    SimulatedPools,
    simulate_pools,
)
from servecast.simulator.traffic.traces import TraceOptions, read_trace


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """The command line. ``configuration`` holds what of a `Setup` was said, ``pools`` of the roles apart."""

    spec: Path
    trace: Path
    configuration: dict[str, Any]
    options: TraceOptions
    model: str | None = None
    store: Path | None = None
    pools: AskedPools | None = None
    overlap: float = 0.0  # of collectives, `EngineProfile`


def run_simulation(asked: SimulateOptions) -> Simulated | SimulatedPools:
    """
    Raises:
        UserError: the spec, the trace, the store or an option is wrong, or the model does not fit.
    """
    spec = load_spec(asked.spec)
    program = spec.model(asked.model)
    workload = read_trace(asked.trace, asked.options)
    workload.check_context(program.context_tokens)
    engine = ENGINE_PROFILES[DEFAULT_ENGINE]
    if asked.configuration.get("async_scheduling"):
        engine = engine.scheduling("--async-scheduling", True)
    if asked.overlap:
        engine = engine.given("--comm-overlap", overlap=asked.overlap)
    loader = TableLoader(asked.store or default_store(), engine=engine)
    skus = {**shipped_skus(), **spec.skus}
    done: Simulated | SimulatedPools
    if asked.pools is None:
        said = dict(asked.configuration)
        if drafter := said.get("drafter"):
            said["drafter"] = mtp_module(program) if drafter == "mtp" else spec.model(drafter)
        done = simulate_setup(_setup(program, said), skus, workload, loader)
    else:
        prefill, decode = (
            _setup(program, said) for said in (asked.pools.prefill, asked.pools.decode)
        )
        pools = PoolsSetup(prefill, decode, AskedLink(**asked.pools.link))
        done = simulate_pools(pools, skus, workload, loader)
    done.summary["provenance"] |= {
        "servecast_version": version("servecast"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    return done


def _setup(program: Program, said: dict[str, Any]) -> Setup:
    return Setup(program, **{"sku": DEFAULT_SKUS[0], **said})


def save_simulation(done: Simulated | SimulatedPools, folder: Path) -> None:
    """``summary.json``, ``requests.parquet``, ``steps.parquet``, ``timeline.json``, and ``operators.parquet``
    where they were asked for; each whole or not at all.

    Raises:
        UserError: the folder cannot be written to.
    """
    writers: dict[str, Callable[[Path], object]] = {
        "requests.parquet": lambda path: write_columns(_requests(done), path),
        "steps.parquet": lambda path: write_columns(_steps(done), path),
        "timeline.json": lambda path: _write_timeline(done, path),
        "summary.json": lambda path: path.write_text(summary_text(done) + "\n", encoding="utf-8"),
    }
    if done.summary["operators"] is not None:
        rows = done.summary["operators"]
        writers["operators.parquet"] = lambda path: write_columns(operator_columns(rows), path)
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


def summary_text(done: Simulated | SimulatedPools) -> str:
    """The summary as the command prints it."""
    return json.dumps(done.summary, indent=2, allow_nan=False)


def _requests(done: Simulated | SimulatedPools) -> Columns:
    if isinstance(done, Simulated):
        return request_columns(done.records, done.workload)
    return pool_request_columns(done.run, done.workload)


def _steps(done: Simulated | SimulatedPools) -> Columns:
    return (
        step_columns(done.records) if isinstance(done, Simulated) else pool_step_columns(done.run)
    )


def _write_timeline(done: Simulated | SimulatedPools, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        if isinstance(done, Simulated):
            write_timeline(done.records, file)
        else:
            write_pool_timeline(done.run, file)
