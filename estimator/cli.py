"""`servecast store` and `servecast fit`: parse, call, print. Heavy modules are imported inside."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import platformdirs

from servecast.compiler.output_options import quiet_option, result_alone_option

if TYPE_CHECKING:
    from servecast.estimator.intake import Intake


# As `intake.py` has them; a test compares. Its imports are too heavy for `--help`.
PACKAGES = ("silicon", "aisimulate")
FOLDERS = ("vidur", "llmservingsim")


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


@click.group("store", epilog="servecast store ls")
def store_command() -> None:
    """What has been measured: list it, check it, import more."""


@store_command.command("ls", epilog="servecast store ls --store profile.duckdb")
@store_option
@json_option
@result_alone_option
def list_command(path: Path, as_json: bool) -> None:
    """Rows by SKU, kernel, format and source."""
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        lines = [dataclasses.asdict(line) for line in store.contents()]
    _print_rows(lines, as_json)


@store_command.command("show", epilog="servecast store show h100-sxm linear --limit 5")
@click.argument("sku")
@click.argument("kernel")
@store_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
@result_alone_option
def show_command(sku: str, kernel: str, path: Path, limit: int, as_json: bool) -> None:
    """Measurements of KERNEL on SKU, with their spread."""
    from servecast.estimator.doctor import refuse_nothing
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        rows = store.rows_of(sku, kernel, limit)
        if not rows:
            refuse_nothing(store, sku, kernel)
    _print_rows(rows, as_json)


@store_command.command("doctor", epilog="servecast store doctor --store profile.duckdb")
@store_option
@json_option
@result_alone_option
def doctor_command(path: Path, as_json: bool) -> None:
    """What is kept from estimators and why, and sound rows that contradict physics or each other."""
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.doctor import examine
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        findings = examine(store, shipped_skus())
    _print_rows([dataclasses.asdict(finding) for finding in findings], as_json)


@store_command.command("import", epilog="servecast store import silicon --sku h100-sxm")
@click.argument("source", type=click.Choice([*PACKAGES, *FOLDERS]))
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--sku", "skus", multiple=True, help="Of a package: which GPUs; repeat for more.")
@click.option("--backend", default="vllm", show_default=True, help="Of a package: whose kernels.")
@click.option("--version", help="Of the backend; default: the newest of each table.")
@store_option
@json_option
@quiet_option
def import_command(  # noqa: PLR0913  # one option each
    source: str,
    folder: Path | None,
    skus: tuple[str, ...],
    backend: str,
    version: str | None,
    path: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Take in measurements of others: of the package `silicon` (pip install 'servecast[silicon]') or
    `aisimulate`, or a FOLDER of Vidur's or LLMServingSim's profiles.
    """
    from servecast.estimator.importers.silicon import SiliconQuery
    from servecast.estimator.intake import import_folder, import_package
    from servecast.estimator.store import Store

    if source in FOLDERS and folder is None:
        raise click.UsageError(f"`store import {source}` needs the FOLDER of the profiles")
    if source in PACKAGES and not skus:
        raise click.UsageError(f"`store import {source}` needs --sku")
    path.parent.mkdir(parents=True, exist_ok=True)
    with Store.open(path) as store:
        if folder is not None and source in FOLDERS:
            taken = [import_folder(store, source, folder)]
        else:
            queries = [SiliconQuery(sku, backend, version) for sku in skus]
            taken = [import_package(store, source, query) for query in queries]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(intake) for intake in taken], indent=2))
        return
    for intake in taken:
        _print_intake(intake, details=not quiet)


def _print_intake(intake: Intake, details: bool) -> None:
    back = sum(intake.kept_back.values())
    click.echo(f"{intake.new_rows:,} new rows of {intake.of}; {back:,} of all kept from estimators")
    if not details:
        return
    for verb, reasons in (("kept back", intake.kept_back), ("not taken", intake.not_taken)):
        for reason, count in reasons.items():
            click.echo(f"  {verb}: {count:,} x {reason}")
    for file in intake.files:
        click.echo(f"  {file}")
    if not intake.has_datasheet:
        click.echo(f"  no datasheet of {intake.of}: times were not checked against physics")


@store_command.command("export", epilog="servecast store export profile.parquet")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@store_option
@json_option
@result_alone_option
def export_command(file: Path, path: Path, as_json: bool) -> None:
    """Write every measurement to a Parquet FILE that another store can merge."""
    from servecast.estimator.store import Store

    with Store.open(path, read_only=True) as store:
        _print_count("rows", store.export(file), f"rows written to {file}", as_json)


@store_command.command("merge", epilog="servecast store merge profile.parquet")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@store_option
@json_option
@result_alone_option
def merge_command(file: Path, path: Path, as_json: bool) -> None:
    """Take in the measurements of an exported FILE; those already here are passed over, and those that no
    such GPU can do are kept from estimators.
    """
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.store import Store

    path.parent.mkdir(parents=True, exist_ok=True)
    with Store.open(path) as store:
        new_rows, kept_back = store.merge(file, shipped_skus())
    if as_json:
        click.echo(json.dumps({"new_rows": new_rows, "kept_back": kept_back}))
    else:
        told = f"; {kept_back:,} kept from estimators, see `servecast store doctor`"
        click.echo(f"{new_rows:,} new rows from {file}{told if kept_back else ''}")


@store_command.command("gc", epilog="servecast store gc --store profile.duckdb")
@store_option
@json_option
@result_alone_option
def gc_command(path: Path, as_json: bool) -> None:
    """Drop fitted models and tables; the next run computes what it needs again."""
    from servecast.estimator.store import Store

    with Store.open(path, existing=True) as store:
        _print_count("dropped", store.collect_garbage(), "models and tables dropped", as_json)


@click.command("fit")
@click.option("--sku", required=True, help="The GPU whose measurements to learn from.")
@click.option("--source", default="silicon", show_default=True, help="Whose measurements.")
@click.option("--seed", default=0, show_default=True, help="Which shapes are held out.")
@click.option("--report", is_flag=True, help="Hold out a fifth of the shapes and print the errors.")
@store_option
@json_option
@result_alone_option
def fit_command(sku: str, source: str, seed: int, report: bool, path: Path, as_json: bool) -> None:
    """Fit the learners of every kernel measured on a GPU, or report how well they do.

    \b
    servecast fit --sku h100-sxm --report
    """
    from servecast.compiler.catalog import shipped_skus
    from servecast.estimator.report import fit_all, report_rows
    from servecast.estimator.store import Store

    with Store.open(path, existing=True) as store:
        if report:
            rows = report_rows(store, sku, source, seed, shipped_skus().get(sku))
        else:
            rows = fit_all(store, sku, source, shipped_skus().get(sku))
    _print_rows(rows, as_json)


def _print_count(name: str, count: int, what: str, as_json: bool) -> None:
    click.echo(json.dumps({name: count}) if as_json else f"{count:,} {what}")


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
