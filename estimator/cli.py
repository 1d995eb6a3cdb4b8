"""`servecast store` and `servecast fit`: parse, call, print. Heavy modules are imported inside."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import platformdirs

if TYPE_CHECKING:
    from servecast.estimator.measurement import MeasurementBatch
    from servecast.estimator.store import Store


FOLDERS = {"vidur": "import_vidur", "llmservingsim": "import_llmservingsim"}
"""Importers of folders, by source: the function in the source's own module."""


def default_store() -> Path:
    return Path(platformdirs.user_cache_dir("servecast")) / "profiles.duckdb"


store_option = click.option(
    "--store",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=default_store,
    help="The DuckDB file; default: the one of this user.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")


@click.group("store")
def store_command() -> None:
    """What has been measured: list it, check it, import more."""


@store_command.command("ls")
@store_option
@json_option
def list_command(path: Path, as_json: bool) -> None:
    """Rows by SKU, kernel, format and source."""
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        lines = [dataclasses.asdict(line) for line in store.contents()]
    _print_rows(lines, as_json)


@store_command.command("show")
@click.argument("sku")
@click.argument("kernel")
@store_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
def show_command(sku: str, kernel: str, path: Path, limit: int, as_json: bool) -> None:
    """Measurements of KERNEL on SKU, with their spread."""
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        rows = store.rows_of(sku, kernel, limit)
    _print_rows(rows, as_json)


@store_command.command("doctor")
@store_option
@json_option
def doctor_command(path: Path, as_json: bool) -> None:
    """What is kept from estimators and why, and sound rows that contradict physics or each other."""
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.doctor import examine
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        findings = examine(store, shipped_skus())
    _print_rows([dataclasses.asdict(finding) for finding in findings], as_json)


@store_command.command("import")
@click.argument("source", type=click.Choice(["silicon", *FOLDERS]))
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--sku", "skus", multiple=True, help="silicon: which GPUs; repeat for more.")
@click.option("--backend", default="vllm", show_default=True, help="silicon: whose kernels.")
@click.option("--version", help="silicon: of the backend; default: the newest of each table.")
@store_option
def import_command(
    source: str,
    folder: Path | None,
    skus: tuple[str, ...],
    backend: str,
    version: str | None,
    path: Path,
) -> None:
    """Take in measurements of others: `silicon` (pip install 'servecast[silicon]') or a FOLDER of Vidur's or
    LLMServingSim's profiles.
    """
    from servecast.estimator.importers.silicon import SiliconQuery
    from servecast.estimator.store import Store

    if source in FOLDERS and folder is None:
        raise click.UsageError(f"`store import {source}` needs the FOLDER of the profiles")
    if source == "silicon" and not skus:
        raise click.UsageError("`store import silicon` needs --sku")
    path.parent.mkdir(parents=True, exist_ok=True)
    with Store.open(path) as store:
        if folder is not None and source in FOLDERS:
            _import_folder(store, source, folder)
            return
        for sku in skus:
            _import_silicon(store, SiliconQuery(sku, backend, version))


def _import_folder(store: Store, source: str, folder: Path) -> None:
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.importers.vidur import Skipped
    from servecast.estimator.measurement import batches_of
    from servecast.estimator.quarantine import screened

    module = import_module(f"servecast.estimator.importers.{source}")
    reader = getattr(module, FOLDERS[source])
    skipped, skus = Skipped(), shipped_skus()
    batches = batches_of(reader(folder, skipped))
    added = store.add_batches(part for batch in batches for part in screened(batch, skus))
    click.echo(f"{added:,} new rows from {folder}")
    for reason, count in sorted(skipped.reasons.items()):
        click.echo(f"  not taken: {count:,} x {reason}")


def _import_silicon(store: Store, query: object) -> None:
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.importers.silicon import SiliconQuery, import_silicon
    from servecast.estimator.quarantine import screened

    assert isinstance(query, SiliconQuery)
    batches = list(import_silicon(query))
    skus = shipped_skus()
    kept: list[MeasurementBatch] = [p for batch in batches for p in screened(batch, skus)]
    added = store.add_batches(kept)
    back = sum(batch.num_rows for batch in kept if batch.quarantine)
    files = sorted({batch.origin.file for batch in batches})
    click.echo(
        f"{added:,} new rows of {query.sku}; {back:,} of all are kept from estimators (doctor)"
    )
    for file in files:
        click.echo(f"  {file}")
    if query.sku not in skus:
        click.echo(f"  no datasheet of {query.sku}: times were not checked against physics")


@store_command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@store_option
def export_command(file: Path, path: Path) -> None:
    """Write every measurement to a Parquet FILE that another store can merge."""
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        click.echo(f"{store.export(file):,} rows written to {file}")


@store_command.command("merge")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@store_option
def merge_command(file: Path, path: Path) -> None:
    """Take in the measurements of an exported FILE; those already here are passed over."""
    from servecast.estimator.store import Store

    path.parent.mkdir(parents=True, exist_ok=True)
    with Store.open(path) as store:
        click.echo(f"{store.merge(file):,} new rows from {file}")


@store_command.command("gc")
@store_option
def gc_command(path: Path) -> None:
    """Drop fitted models and tables; the next run computes what it needs again."""
    from servecast.estimator.store import Store

    with Store.open(path) as store:
        click.echo(f"{store.collect_garbage():,} models and tables dropped")


@click.command("fit")
@click.option("--sku", required=True, help="The GPU whose measurements to learn from.")
@click.option("--source", default="silicon", show_default=True, help="Whose measurements.")
@click.option("--seed", default=0, show_default=True, help="Which shapes are held out.")
@click.option("--report", is_flag=True, help="Hold out a fifth of the shapes and print the errors.")
@store_option
@json_option
def fit_command(sku: str, source: str, seed: int, report: bool, path: Path, as_json: bool) -> None:
    """Fit the learners of every kernel measured on a GPU, or report how well they do.

    \b
    servecast fit --sku h100-sxm --report
    """
    from servecast.estimator.report import fit_all, report_rows
    from servecast.estimator.store import Store

    with Store.open(path) as store:
        rows = report_rows(store, sku, source, seed) if report else fit_all(store, sku, source)
    _print_rows(rows, as_json)


def _print_rows(rows: list[dict[str, object]], as_json: bool) -> None:
    """As JSON, or as columns: numbers to the right, text to the left, nothing cut off."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("nothing")
        return
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    for line in cells:
        padded = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)
