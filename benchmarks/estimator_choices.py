"""Chooses the learner of every kernel in the public tables and keeps the choices: rewrites a file.

    python benchmarks/estimator_choices.py [--sku h100-sxm …] [--kernel linear …] [--backend sglang] [--new]

A first fit then does without cross-validation. Every line of the GPUs, kernels and engine named is chosen
anew and written as soon as its GPU is done, so that pieces make the same file as one run over everything:
choices have no chance in them. With ``--new`` data that were chosen for before are left as they are.
Run it when importers, quarantine or learners change; until then other data are chosen for at first use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.importers.silicon import (
    BACKENDS,
    SYSTEMS,
    SiliconQuery,
    import_silicon,
    source_name,
)
from servecast.estimator.kept_choices import data_key
from servecast.estimator.learners.choice import choose
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES
from servecast.estimator.quarantine import screened
from servecast.estimator.report import kinds_in
from servecast.estimator.store import Store

Choices = dict[str, dict[str, str | float]]
FILE = Path(__file__).parents[1] / "estimator" / "choices.json"


def choices_of(query: SiliconQuery, kernels: Sequence[str], kept: Choices) -> Choices:
    """Of one GPU's tables under one engine; what is ``kept`` is not chosen again."""
    skus, sms = shipped_skus(), num_sms_of(query.sku)
    found: Choices = {}
    with Store.open(":memory:") as store:
        rows = import_silicon(query)
        store.add_batches(part for batch in rows for part in screened(batch, skus))
        for kind, samples in kinds_in(store, query.sku, source_name(query.backend)):
            if kind.kernel in COLLECTIVES or (kernels and kind.kernel not in kernels):
                continue
            key = data_key(kind, samples, sms)
            if key in kept:
                found[key] = kept[key]
                continue
            choice = choose(kind, samples, sms)
            formats = " ".join((kind.kernel, kind.dtype, kind.kv_dtype)).strip()
            of, error = f"{named(query)}{formats}", round(choice.error, 5)
            found[key] = {"of": of, "learner": choice.best, "error": error}
    return found


def replaced(of: str, query: SiliconQuery, kernels: Sequence[str]) -> bool:
    """Whether a line of the file is of these tables, and of one of the kernels if any are named."""
    tables, _, formats = of.partition(": ")
    return f"{tables}: " == named(query) and (not kernels or formats.split()[0] in kernels)


def named(query: SiliconQuery) -> str:
    """How the file's lines of these tables begin."""
    return f"{query.sku}: " if query.backend == "vllm" else f"{query.sku} {query.backend}: "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--kernel", nargs="+", default=[], help="default: all")
    parser.add_argument("--backend", default="vllm", choices=BACKENDS)
    parser.add_argument("--new", action="store_true", help="only data never chosen for")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    lines: Choices = json.loads(options.file.read_text(encoding="utf-8"))
    for sku in options.sku:
        query = SiliconQuery(sku, options.backend)
        others = {
            key: line
            for key, line in lines.items()
            if not replaced(str(line["of"]), query, options.kernel)
        }
        found = choices_of(query, options.kernel, lines if options.new else {})
        lines = others | found
        ordered = dict(sorted(lines.items(), key=lambda item: (str(item[1]["of"]), item[0])))
        options.file.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        print(f"{sku}: {len(found)} kernels")


if __name__ == "__main__":
    main()
