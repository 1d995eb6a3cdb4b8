"""The edge of ``servecast calibrate`` and ``drift``: recordings in, an engine profile or a verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import ks_2samp

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.load import load_spec
from servecast.estimator.engine_profile import EngineProfile, profile_json
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.simulator.commands.search_job import default_store
from servecast.simulator.commands.validate_job import ValidateOptions, engine_of, setup_of
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.measured.calibration import Fitted, Model, Term, errors, fit
from servecast.simulator.measured.readers import read_run
from servecast.simulator.measured.run import MeasuredRun
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import place

SCHEMA_VERSION = 1
FACTOR_SD = 0.05  # kernels under load run within some per cent of their profile
HOST_SD_S, CLIENT_SD_S = 0.002, 0.05
MOVED_SDS = 3.0
ALIKE_P = 0.001
LEAST_SHIFT = 0.1  # of a mean length or of the rate, before anyone calls it another workload
Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """The profile with the terms that moved, and the object of ``docs/howto-calibrate.md``."""

    profile: EngineProfile
    fitted: list[Fitted]
    summary: Row


def terms_of(engine: EngineProfile, clock: str) -> list[Term]:
    """What may be refitted, most physical first; a server's clock knows nothing of the client."""
    terms = [
        Term("matrix_factor", engine.matrix_factor, FACTOR_SD),
        Term("attention_factor", engine.attention_factor, FACTOR_SD),
        Term("host_step_s", engine.host_step_s, HOST_SD_S),
    ]
    if clock == "client":
        terms.append(Term("client_s", engine.client_s, CLIENT_SD_S))
    return terms


def run_calibration(asked: ValidateOptions) -> Calibrated:
    """
    Raises:
        UserError: the spec, the recording or an option is wrong, or the recording identifies no term.
    """
    run = read_run(asked.run)
    engine = engine_of(asked, run)
    model = replayed(asked, run, engine)
    terms = terms_of(engine, run.clock)
    fitted = fit(run, terms, model)
    told = [f for f in fitted if not f.refused]
    if not told:
        why = "; ".join(f"{f.name}: {f.refused}" for f in fitted)
        raise UserError(f"{asked.run}: identifies no term ({why}); record at another load, too")
    profile = engine.given(f"calibrated from {asked.run.name}", **{f.name: f.after for f in told})
    before = {term.name: term.value for term in terms}
    after = before | {f.name: f.after for f in told}
    tables = {
        name: {
            "fitted": errors(run, model(values), values.get("client_s", 0.0), held_out=False),
            "held_out": errors(run, model(values), values.get("client_s", 0.0), held_out=True),
        }
        for name, values in (("before", before), ("after", after))
    }
    terms_json = [asdict(f) for f in fitted]
    summary = {
        "schema_version": SCHEMA_VERSION,
        "engine": engine.name,
        "terms": terms_json,
        **tables,
    }
    return Calibrated(profile, fitted, summary)


def replayed(asked: ValidateOptions, run: MeasuredRun, engine: EngineProfile) -> Model:
    """The recording's simulation as a function of the terms, as `replay` has it; tables are built once.

    Raises:
        UserError: as `run_calibration`.
    """
    spec = load_spec(asked.spec)
    program = spec.model(asked.model)
    run.workload.check_context(program.context_tokens)
    setup = setup_of(asked, run, program, engine)
    placement = place(setup, {**shipped_skus(), **spec.skus}, run.workload.mean_sequence_tokens)
    bare = replace(engine, matrix_factor=1.0, attention_factor=1.0)
    loader = TableLoader(asked.store or default_store(), asked.sources or DEFAULT_SOURCES, bare)
    loader.expect_lengths(run.workload.prompt_tokens, run.workload.output_tokens)
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    limits, replicas = placement.candidates[0].limits, setup.replicas * setup.dp
    runner = Engine()

    def model(terms: Mapping[str, float]) -> Records:
        scaled = tables.scaled(terms["matrix_factor"], terms["attention_factor"])
        told = replace(scaled, host_step_s=terms["host_step_s"])
        fleet = Fleet(told, limits, replicas, setup.router, setup.policy, setup.modes)
        return runner.run(run.workload, fleet).copy()

    return model


def write_profile(profile: EngineProfile, path: Path) -> None:
    """
    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.write_text(profile_json(profile), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def run_drift(before: ValidateOptions, after: ValidateOptions) -> Row:
    """What moved between two recordings of one deployment: the workload, the engine, the hardware.

    Raises:
        UserError: as `run_calibration`.
    """
    old, new = read_run(before.run), read_run(after.run)
    fits = [
        fit(
            run,
            terms_of(engine_of(asked, run), run.clock),
            replayed(asked, run, engine_of(asked, run)),
        )
        for asked, run in ((before, old), (after, new))
    ]
    moved = _moved_terms(*fits)
    host = [m for m in moved if m["term"] in ("host_step_s", "client_s")]
    kernels = [m for m in moved if m not in host]
    engine = _engine_changes(old, new)
    found = {
        "workload": _workload_changes(old, new),
        "engine": [*engine, *host],
        "hardware": kernels,
    }
    verdict = [name for name, changes in found.items() if changes] or ["nothing"]
    return {"schema_version": SCHEMA_VERSION, "moved": verdict, **found}


def _moved_terms(old: list[Fitted], new: list[Fitted]) -> list[Row]:
    """Terms that both recordings identify and that differ by more than their spreads allow."""
    known = {f.name: f for f in old if not f.refused}
    rows = []
    for f in new:
        was = known.get(f.name)
        if was is None or f.refused:
            continue
        sds = abs(f.after - was.after) / (was.sd**2 + f.sd**2) ** 0.5
        if sds > MOVED_SDS:
            rows.append({"term": f.name, "before": was.after, "after": f.after, "sds": sds})
    return rows


def _engine_changes(old: MeasuredRun, new: MeasuredRun) -> list[Row]:
    rows = [
        {"setting": name, "before": old.settings.get(name), "after": new.settings.get(name)}
        for name in sorted({*old.settings, *new.settings})
        if old.settings.get(name) != new.settings.get(name)
    ]
    if old.engine_version != new.engine_version:
        versions = {"before": old.engine_version, "after": new.engine_version}
        rows.append({"setting": "engine_version", **versions})
    return rows


def _workload_changes(old: MeasuredRun, new: MeasuredRun) -> list[Row]:
    """Lengths whose distribution is another one, and the rate."""
    rows: list[Row] = []
    for name in ("prompt_tokens", "output_tokens"):
        one, other = getattr(old.workload, name), getattr(new.workload, name)
        shift = float(other.mean() / one.mean() - 1)
        p = float(ks_2samp(one, other).pvalue)
        if p < ALIKE_P and abs(shift) > LEAST_SHIFT:
            means = {"before": float(one.mean()), "after": float(other.mean())}
            rows.append({"what": name, **means, "p": p})
    rates = [r.workload.rate_per_s if r.workload.span_s > 0 else None for r in (old, new)]
    if rates[0] and rates[1] and abs(rates[1] / rates[0] - 1) > LEAST_SHIFT:
        rows.append({"what": "requests per second", "before": rates[0], "after": rates[1]})
    return rows
