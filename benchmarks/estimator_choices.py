"""Chooses the learner of every kernel in the public tables, sees how far it is off, and keeps both: rewrites
a file.

    python benchmarks/estimator_choices.py [--sku h100-sxm …] [--kernel linear …] [--backend sglang] [--new]

A first fit then does without cross-validation, and a first draw without calibration. Every line of the GPUs,
kernels and engine named is made anew and written as soon as it is known, so that pieces make the same file
as one run over everything: nothing here has chance in it. With ``--new`` data that were chosen for before
keep their learner, and of those only what was calibrated by other code is calibrated. Run it when importers,
quarantine or learners change; until then users' machines do what lines are missing, or of other code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.importers.silicon import (
    BACKENDS,
    SYSTEMS,
    SiliconQuery,
    import_silicon,
    source_name,
)
from servecast.estimator.kept_choices import calibrating_code, calibration_line, data_key
from servecast.estimator.learners.calibrate import calibrate
from servecast.estimator.learners.choice import choose
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES
from servecast.estimator.quarantine import screened
from servecast.estimator.report import kinds_in
from servecast.estimator.store import Store

Line = dict[str, Any]
FILE = Path(__file__).parents[1] / "estimator" / "choices.json"


def lines_of(
    query: SiliconQuery, kernels: Sequence[str], kept: dict[str, Line]
) -> Iterator[tuple[str, Line]]:
    """Of one GPU's tables under one engine; what is ``kept`` of this code is not done again."""
    skus, sms = shipped_skus(), num_sms_of(query.sku)
    with Store.open(":memory:") as store:
        rows = import_silicon(query)
        store.add_batches(part for batch in rows for part in screened(batch, skus))
        for kind, samples in kinds_in(store, query.sku, source_name(query.backend)):
            if kind.kernel in COLLECTIVES or (kernels and kind.kernel not in kernels):
                continue
            key = data_key(kind, samples, sms)
            line = kept.get(key, {})
            if "learner" not in line:
                choice = choose(kind, samples, sms)
                formats = " ".join((kind.kernel, kind.dtype, kind.kv_dtype)).strip()
                of, error = f"{named(query)}{formats}", round(choice.error, 5)
                line = {"of": of, "learner": choice.best, "error": error}
            if line.get("code") != calibrating_code():
                line |= calibration_line(calibrate(kind, samples, sms, line["learner"]))
            yield key, line


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
    parser.add_argument("--new", action="store_true", help="only what is not there yet")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    lines: dict[str, Line] = json.loads(options.file.read_text(encoding="utf-8"))
    for sku in options.sku:
        query = SiliconQuery(sku, options.backend)
        before = {k for k, x in lines.items() if replaced(x["of"], query, options.kernel)}
        kept = {key: lines[key] for key in before} if options.new else {}
        found = set()
        for key, line in lines_of(query, options.kernel, kept):
            found.add(key)
            lines[key] = line
            write(options.file, lines)
            print(line["of"], line["learner"], line["error"], flush=True)
        lines = {key: line for key, line in lines.items() if key in found or key not in before}
        write(options.file, lines)


def write(file: Path, lines: dict[str, Line]) -> None:
    """A line of the file for each, by GPU and kernel."""
    ordered = sorted(lines.items(), key=lambda item: (item[1]["of"], item[0]))
    told = ",\n".join(f"{json.dumps(key)}: {json.dumps(line)}" for key, line in ordered)
    file.write_text(f"{{\n{told}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
