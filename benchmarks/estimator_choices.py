"""Chooses the learner of every kernel in the public tables and keeps the choices: rewrites a file.

    python benchmarks/estimator_choices.py [--sku h100-sxm …] [--backend sglang] [--file choices.json]

A first fit then does without cross-validation. Run it again when importers, quarantine or learners change;
until then data that changed are chosen for at first use.
"""

from __future__ import annotations

import argparse
import json
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


def choices_of(query: SiliconQuery, kept: Choices) -> Choices:
    """Of one GPU's tables under one engine; what is ``kept`` is not chosen again."""
    sku = query.sku
    skus = shipped_skus()
    found: Choices = {}
    with Store.open(":memory:") as store:
        rows = import_silicon(query)
        store.add_batches(part for batch in rows for part in screened(batch, skus))
        for kind, samples in kinds_in(store, sku, source_name(query.backend)):
            if kind.kernel in COLLECTIVES:
                continue
            key = data_key(kind, samples, num_sms_of(sku))
            formats = " ".join((kind.kernel, kind.dtype, kind.kv_dtype)).strip()
            if key not in kept:
                choice = choose(kind, samples, num_sms_of(sku))
                error = round(choice.error, 5)
                found[key] = {
                    "of": f"{named(query)}{formats}",
                    "learner": choice.best,
                    "error": error,
                }
            else:
                found[key] = kept[key]
    return found


def named(query: SiliconQuery) -> str:
    """How the file's lines of these tables begin."""
    return f"{query.sku}: " if query.backend == "vllm" else f"{query.sku} {query.backend}: "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--backend", default="vllm", choices=BACKENDS)
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    kept: Choices = json.loads(options.file.read_text(encoding="utf-8"))
    for sku in options.sku:
        query = SiliconQuery(sku, options.backend)
        others = {k: x for k, x in kept.items() if not str(x["of"]).startswith(named(query))}
        kept = others | choices_of(query, kept)
        ordered = dict(sorted(kept.items(), key=lambda item: str(item[1]["of"])))
        options.file.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        print(f"{sku}: {len(kept) - len(others)} kernels")


if __name__ == "__main__":
    main()
