"""What fitting a GPU's kernels and building tables cost, in CPU seconds, beside what they may: a table.

    python benchmarks/estimator_speed.py [--sku h100-sxm] [--backend vllm] [--json]

In this order: public rows imported into an empty store; everything that they hold fitted, as `servecast fit`
does; the first tables of a model; those of another parallelism, its kernels fitted; the same asked for
again, by another process as it were; the first draw of errors, and another. Say beside it how busy the
machine was: two threads that share a core cost each other half as much again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.hardware import Sku
from servecast.compiler.load import load_spec
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES, EngineProfile
from servecast.estimator.importers.silicon import BACKENDS, source_name
from servecast.estimator.load import DEFAULT_SOURCES, TableLoader
from servecast.estimator.report import fit_all
from servecast.estimator.sources import import_once
from servecast.estimator.store import Store
from servecast.estimator.tables import TableBounds

SPECS = Path(__file__).parents[1] / "spec"
MODELS = {"llama-3.1-8b": ("llama.llm", 1, 2), "mixtral-8x7b": ("mixtral.llm", 2, 4)}
BOUNDS = TableBounds(8192, 256, 32768, 500_000)
GOALS_S = {"fit": 20.0, "tables": 0.3}
Cost = tuple[str, str, float]
"""Of what, which part, CPU seconds."""


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def sharded(spec: str, tp: int) -> ShardedProgram:
    return shard(load_spec(SPECS / spec).model(), Parallelism(tp))


def costs(path: Path, sku: Sku, backend: str) -> Iterator[Cost]:
    source, rows = source_name(backend), list[dict[str, object]]()
    of = f"{sku.name}, {backend}"
    with Store.open(path) as store:
        yield of, "import", cpu_s(lambda: import_once(store, sku, [source]))
        whole = cpu_s(lambda: rows.extend(fit_all(store, sku.name, source, sku)))
    for row in rows:
        formats = " ".join(str(row[name]) for name in ("kernel", "dtype", "kv_dtype")).strip()
        yield f"{of}: {formats}, {row['learner']}", "a kernel's fit", float(str(row["cpu_s"]))
    yield of, "fit", whole
    for name in MODELS:
        yield from costs_of_model(path, sku, name, profile_of(backend))


def profile_of(backend: str) -> EngineProfile:
    """The default engine's, or the first whose kernels are that engine's."""
    profiles = (ENGINE_PROFILES[DEFAULT_ENGINE], *ENGINE_PROFILES.values())
    return next(profile for profile in profiles if profile.kernels == backend)


def costs_of_model(path: Path, sku: Sku, name: str, profile: EngineProfile) -> Iterator[Cost]:
    spec, tp, wider = MODELS[name]
    one, other = sharded(spec, tp), sharded(spec, wider)
    loader = TableLoader(path, DEFAULT_SOURCES, profile)
    again = TableLoader(path, DEFAULT_SOURCES, profile)
    loader.expect(sku, [one, other])
    of = f"{sku.name}, {profile.kernels}: {name}"
    yield of, "first tables", cpu_s(lambda: loader.tables(one, sku, BOUNDS))
    yield of, "tables", cpu_s(lambda: loader.tables(other, sku, BOUNDS))
    yield of, "tables kept", cpu_s(lambda: again.tables(other, sku, BOUNDS))
    yield of, "first draw", cpu_s(lambda: loader.drawn_tables(one, sku, BOUNDS, 1))
    yield of, "draw", cpu_s(lambda: loader.drawn_tables(one, sku, BOUNDS, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", default="h100-sxm")
    parser.add_argument("--backend", default="vllm", choices=BACKENDS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profiles.duckdb"
        found = list(costs(path, shipped_skus()[options.sku], options.backend))
    if options.json:
        print(json.dumps([dict(zip(("of", "part", "cpu_s"), x, strict=True)) for x in found]))
        return
    print("| of | what | CPU seconds | at most |\n| --- | --- | ---: | ---: |")
    for of, part, cost in found:
        most = GOALS_S.get(part)
        star = " *" if most is not None and cost > most else ""
        print(f"| {of} | {part} | {cost:.2f}{star} | {'' if most is None else f'{most:g}'} |")


if __name__ == "__main__":
    main()
