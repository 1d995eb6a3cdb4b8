"""The standing benchmark as a person reads it: one table of the best, and a matrix a model."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

CANNOT = "–"


def show_bench(result: Row, console: Console) -> None:
    """Prints what `bench_job.run_bench` returns."""
    console.print(_best_table(result["cells"]))
    for model, matrix in result["misconfiguration"].items():
        if len(matrix["workloads"]) == 1:
            continue  # nothing to compare
        console.print()
        title = f"{model}: the cost of a request over its own best"
        console.print(title, style="bold", highlight=False)
        console.print(_matrix_table(matrix))
    for number, line in enumerate(_findings(result)):
        console.print("" if number else "\n", line, sep="", highlight=False)


def _best_table(cells: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    skus = list(cells[0]["qps_per_usd_hour"])
    for name in ("model", "workload"):
        table.add_column(name, no_wrap=True)
    table.add_column("best, seqs/tokens", no_wrap=True)
    for name in (*(_in_lines(sku) for sku in skus), "$/Mtok"):
        table.add_column(name, justify="right", vertical="bottom")
    for cell in cells:
        best = cell["best"]
        price = CANNOT if best is None else f"{best['usd_per_million_output_tokens']:.2f}"
        figures = [_figure(cell["qps_per_usd_hour"][sku]) for sku in skus]
        table.add_row(cell["model"], cell["workload"], _shape(best), *figures, price)
    return table


def _in_lines(sku: str) -> str:
    """A header that breaks where its name has a hyphen, so that two SKUs and a model fit 80 columns."""
    first, hyphen, last = sku.rpartition("-")
    name = sku if len(sku) <= len("QPS/$h") + 4 else f"{first}{hyphen}\n{last}"
    return f"{name}\nQPS/$h"


def _shape(best: Row | None) -> str:
    if best is None:
        return "nothing meets the targets"
    pp = f" pp{best['pp']}" if best["pp"] > 1 else ""
    limits = f"{best['max_num_seqs']}/{best['max_batched_tokens']}"
    return f"{best['sku']} tp{best['tp']}{pp} {limits}"


def _matrix_table(matrix: Row) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("chosen for ↓\nserving →", no_wrap=True)
    for workload in matrix["workloads"]:
        table.add_column(workload, justify="right")
    for workload, costs in zip(matrix["workloads"], matrix["cost"], strict=True):
        table.add_row(workload, *(_figure(cost) for cost in costs))
    return table


def _figure(value: float | None) -> str:
    return CANNOT if value is None else f"{value:.2f}"


def _findings(result: Row) -> list[str]:
    lines = []
    for model, count in result["findings"]["best_differs"].items():
        workloads = len(result["misconfiguration"][model]["workloads"])
        if workloads == 1:
            continue
        different = "configuration is" if count == 1 else "configurations are"
        lines.append(f"{model}: {count} {different} best for its {workloads} workloads.")
    worst = result["findings"]["costliest"]
    if worst is not None and worst["cost"] > 1:
        lines.append(
            f"The costliest mistake is {worst['model']} configured for {worst['chosen_for']} and serving "
            f"{worst['served']}: {worst['cost']:.2f} times the cost."
        )
    return lines
