"""The edge of ``servecast validate``: reads spec and recording, simulates, compares."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program
from servecast.estimator.engine_profile import (
    DEFAULT_ENGINE,
    ENGINE_PROFILES,
    EngineProfile,
    profile_of,
    read_profile,
)
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.simulator.commands.search_job import default_store
from servecast.simulator.engine.modes import NO_MODES, Modes
from servecast.simulator.measured.curves import compare_curves
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.run import MeasuredRun
from servecast.simulator.measured.validate import compare, comparison_json
from servecast.simulator.simulate import Setup, Simulated, simulate_setup

SCHEMA_VERSION = 1
Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """The command line. ``configuration`` holds what of a `Setup` was said; it overrides the recording.

    ``host_step_s`` is the host's time between two steps; None: the engine profile's default. ``engine`` is
    a profile that ``servecast calibrate`` wrote.
    """

    spec: Path
    run: Path
    sku: str
    configuration: dict[str, Any]
    model: str | None = None
    store: Path | None = None
    sources: tuple[str, ...] = ()
    seed: int = 0
    host_step_s: float | None = None
    engine: Path | None = None


def run_validation(asked: ValidateOptions) -> Row:
    """The object of ``docs/validate.md``.

    Raises:
        UserError: the spec, the recording, the store or an option is wrong, or the model does not fit.
    """
    run = read_run(asked.run)
    engine = engine_of(asked, run)
    done = replay(asked, run, engine)
    return {
        "schema_version": SCHEMA_VERSION,
        "recording": _recording(asked, run, engine),
        "comparison": comparison_json(compare(run, done.records, asked.seed)),
        "curves": compare_curves(run.curves, done.records),
        "simulation": done.summary | {"provenance": _provenance(done)},
    }


def replay(asked: ValidateOptions, run: MeasuredRun, engine: EngineProfile) -> Simulated:
    """The recorded requests, when and as long as they were, on the engine as it is known.

    Raises:
        UserError: as `run_validation`.
    """
    spec = load_spec(asked.spec)
    program = spec.model(asked.model)
    setup = setup_of(asked, run, program, engine)
    run.workload.check_context(program.context_tokens)
    loader = TableLoader(asked.store or default_store(), asked.sources or DEFAULT_SOURCES, engine)
    return simulate_setup(setup, {**shipped_skus(), **spec.skus}, run.workload, loader)


def setup_of(
    asked: ValidateOptions, run: MeasuredRun, program: Program, engine: EngineProfile
) -> Setup:
    """What the command line says, else the recording, else the engine's profile. Data-parallel ranks that
    share experts wait for each other, and vLLM's have a balancer of their own.
    """
    ahead, caching = engine.async_scheduling, run.workload.prefix is not None
    told = {"sku": asked.sku, "async_scheduling": ahead, "prefix_caching": caching, **run.settings}
    setup = Setup(program, **{**told, **asked.configuration})
    if setup.dp == 1 or setup.ep == 1 or setup.pp > 1 or setup.modes != NO_MODES:
        return setup
    own = engine.kernels == "vllm" and "router" not in asked.configuration
    router = "vllm_ranks" if own else setup.router
    return replace(setup, modes=Modes(lock_step=setup.dp), router=router)


def engine_of(asked: ValidateOptions, run: MeasuredRun) -> EngineProfile:
    """The profile of the recorded engine's version; what the recording or the command line tells goes
    before its defaults.
    """
    profile = ENGINE_PROFILES[DEFAULT_ENGINE]
    if asked.engine is not None:
        profile = read_profile(asked.engine)
    elif run.engine:
        profile = profile_of(run.engine, run.engine_version)
    if run.async_scheduling is not None:
        profile = profile.scheduling("recorded", run.async_scheduling)
    if asked.host_step_s is not None:
        profile = profile.given("given", host_step_s=asked.host_step_s)
    return profile


def _recording(asked: ValidateOptions, run: MeasuredRun, engine: EngineProfile) -> Row:
    """What was recorded, and where each setting of the engine comes from."""
    told = {name: "recorded" for name in run.settings}
    said = {name: "given" for name in ("sku", *asked.configuration)}
    notes = [note for note in run.notes if "kv_blocks" not in said or "KV blocks" not in note]
    return {
        "path": str(asked.run),
        "clock": run.clock,
        "requests": len(run.workload),
        "settings_from": told | said,
        "engine": engine.name,
        "async_scheduling": engine.async_scheduling,
        "host_step_s": engine.host_step_s,
        "host_step_from": engine.sources["host_step_s"],
        "notes": notes,
    }


def _provenance(done: Simulated) -> Row:
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    found: Row = done.summary["provenance"]
    return found | {"servecast_version": version("servecast"), "command": command}
