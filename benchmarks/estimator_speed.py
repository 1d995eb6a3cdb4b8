"""What fitting a GPU's kernels and building tables cost, in CPU seconds: prints one JSON object.

    python benchmarks/estimator_speed.py [--sku h100-sxm]

``fit`` is everything measured on the GPU under vLLM, `servecast fit`; ``models`` what one model needs, from
nothing imported to its first tables; ``tables`` one placement more of a model whose kernels are fitted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.hardware import Sku
from servecast.compiler.load import load_spec
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.estimator.load import TableLoader
from servecast.estimator.report import fit_all
from servecast.estimator.store import Store
from servecast.estimator.tables import TableBounds

SPECS = Path(__file__).parents[1] / "spec"
MODELS = {"llama-3.1-8b": ("llama.llm", 1, 2), "mixtral-8x7b": ("mixtral.llm", 2, 4)}
BOUNDS = TableBounds(8192, 256, 32768, 500_000)


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return round(time.process_time() - started, 2)


def sharded(spec: str, tp: int) -> ShardedProgram:
    return shard(load_spec(SPECS / spec).model(), Parallelism(tp))


def tables_cost(
    path: Path, sku: Sku, one: ShardedProgram, other: ShardedProgram
) -> dict[str, float]:
    loader = TableLoader(path)
    loader.expect(sku, [one, other])
    return {
        "first_tables": cpu_s(lambda: loader.tables(one, sku, BOUNDS)),
        "tables_warm": cpu_s(lambda: loader.tables(other, sku, BOUNDS)),
        "tables_kept": cpu_s(lambda: TableLoader(path).tables(other, sku, BOUNDS)),
        "first_draw": cpu_s(lambda: loader.drawn_tables(one, sku, BOUNDS, 1)),
        "draw": cpu_s(lambda: loader.drawn_tables(one, sku, BOUNDS, 2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", default="h100-sxm")
    sku = shipped_skus()[parser.parse_args().sku]
    found: dict[str, object] = {"sku": sku.name}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profiles.duckdb"
        for name, (spec, tp, wider) in MODELS.items():
            found[name] = tables_cost(path, sku, sharded(spec, tp), sharded(spec, wider))
        with Store.open(path) as store:
            found["fit_all"] = {
                "cpu_s": cpu_s(
                    lambda: found.update(kernels=fit_all(store, sku.name, "silicon", sku))
                )
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
