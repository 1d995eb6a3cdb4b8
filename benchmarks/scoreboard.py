"""Regenerate docs/accuracy.md: predictions against recorded runs of real engines, failures shown.

    python benchmarks/silicon_gate.py ../shared/data/measured/silicon --store s.duckdb --rows points.csv
    python benchmarks/scoreboard.py ../shared/data --store s.duckdb --rows points.csv

The first takes ten minutes on an idle machine, less where ``points.csv`` has rows that nothing changed; the
second takes minutes. ``--quick`` writes one recording's section alone, in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from accuracy_coverage import METRICS, Recording, coverage_section, distance
from accuracy_text import BOTTOM, COVERAGE, MIDDLE, OPEN_LOOP, TOP
from apex_gate import score
from silicon_answers import PREDICTING, Answer, digest_of, grouped, read_answers, summary
from silicon_placed import place
from silicon_points import FITTED, Case, read_cases

from servecast.compiler.errors import UserError
from servecast.simulator.commands.validate_job import ValidateOptions, run_validation

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "accuracy.md"
RECORDINGS = (
    ("RTX4090__Llama-3.1-8B", "rtx-4090", "llama.llm", "llama-3.1-8b"),
    ("RTXPRO6000__Llama-3.1-8B", "rtx-pro-6000", "llama.llm", "llama-3.1-8b"),
    ("RTXPRO6000__Qwen3-30B-A3B-Instruct-2507", "rtx-pro-6000", "qwen3.llm", "qwen3-30b-a3b"),
)
CLIENTS = (8, 32, 128)  # bounds of the classes that errors are shown by
Row = dict[str, Any]


def recording_of(
    data: Path, store: Path, recording: tuple[str, str, str, str], **configuration: str
) -> ValidateOptions:
    """One of ``RECORDINGS``, as it is validated."""
    name, sku, spec, model = recording
    return ValidateOptions(
        REPOSITORY / "spec" / spec,
        data / "measured" / "llmservingsim-vllm-0.19" / name,
        sku,
        configuration,
        model=model,
        store=store,
        sources=("llmservingsim", "silicon"),
    )


def recorded_section(data: Path, store: Path, count: int) -> tuple[list[str], list[Recording]]:
    """Gate 3: whole recordings, request by request; the first ``count``. Also how far off each is."""
    lines: list[str] = []
    recordings: list[Recording] = []
    for recording in RECORDINGS[:count]:
        asked = recording_of(data, store, recording)
        lines += ["", f"### {recording[0]}", ""]
        try:
            found = run_validation(asked)
        except UserError as error:
            lines.append(f"Not answered: {error}")
            continue
        lines += _recorded(found)
        rows = [row for row in found["comparison"] if row["metric"] in METRICS]
        recordings.append(
            [(row["metric"], distance(row["predicted_s"], row["measured_s"])) for row in rows]
        )
    return lines, recordings


def _recorded(found: Row) -> list[str]:
    setup, recording = found["simulation"]["configuration"], found["recording"]
    told = recording["settings_from"]
    settings = ", ".join(
        f"{name} {setup[name]} ({told.get(name, 'planned')})"
        for name in ("max_num_seqs", "max_batched_tokens", "kv_blocks", "ep", "dp")
    )
    ahead = "asynchronous" if recording["async_scheduling"] else "synchronous"
    lines = [
        f"{recording['requests']} requests, {recording['clock']}'s clock, {recording['engine']}, {ahead} "
        f"scheduling. {settings}.",
        *(f"Note: {note}." for note in recording["notes"]),
        "",
        "| metric | statistic | measured s | predicted s | error | 90 % interval |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["comparison"]:
        lines.append(
            f"| {row['metric']} | {row['statistic']} | {row['measured_s']:.4g} | "
            f"{row['predicted_s']:.4g} | {_signed(row['error'])} | "
            f"{_signed(row['error_low'])} … {_signed(row['error_high'])} |"
        )
    return lines


def open_loop_section(found: Row) -> list[str]:
    """The 106 runs of APEX+, as `score` has them."""
    lines = [
        f"{found['runs']} of {found['runs'] + len(found['refused'])} runs are answered; medians over runs.",
        "",
        "| group | runs | TTFT error | TTFT bias | TPOT error | TPOT bias |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, group in (*found["groups"].items(), ("**all**", found["all"])):
        cells = [_share(group["ttft"]), _signed(group["ttft_bias"])]
        cells += [_share(group["tpot"]), _signed(group["tpot_bias"])]
        lines.append(f"| {name} | {group['runs']} | {' | '.join(cells)} |")
    reasons = Counter(row["reason"] for row in found["refused"])
    return [*lines, "", *(f"- {n} runs not answered: {reason}" for reason, n in reasons.items())]


def silicon_section(cases: list[Case], answers: list[Answer]) -> list[str]:
    """Gate 4: one mean TTFT and TPOT per point, over models, GPUs and engines."""
    share = len(answers) / len(cases)
    lines = [
        f"{len(answers)} of {len(cases)} aggregated points are answered ({share:.0%}).",
        "",
        "| group | rows | TTFT error | theirs | TTFT bias | TPOT error | theirs | TPOT bias |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_silicon_row(name, rows) for name, rows in sorted(grouped(answers).items())]
    hopper = [a for a in answers if a.case.is_dense and a.case.system in ("h100_sxm", "h200_sxm")]
    halves = {
        "**models fitted to**": [a for a in answers if a.case.is_fitted],
        "**models held out**": [a for a in answers if not a.case.is_fitted],
        "**dense, H100 and H200**": hopper,
        "**all**": answers,
    }
    lines += [_silicon_row(name, rows) for name, rows in halves.items() if rows]
    lines += ["", "Not answered:", ""]
    reasons = Counter(_why_not(case) for case in _unanswered(cases, answers))
    lines += [f"- {count} rows: {reason}" for reason, count in reasons.most_common()]
    return [*lines, *_by_concurrency(answers)]


def state(code: str) -> str:
    """Whether the rows are of this tree's code, or of which."""
    now = digest_of(PREDICTING)
    if code == now:
        return f"Every point is predicted by this tree's code, of digest {now}."
    return f"The points are predicted by code of digest {code}; this tree's is {now}."


def _by_concurrency(answers: list[Answer]) -> list[str]:
    lines = [
        "",
        "| engine, clients | rows | TTFT error | theirs | TTFT bias | TPOT error | theirs | TPOT bias |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine in sorted({answer.case.backend for answer in answers}):
        for low, high in zip((0, *CLIENTS), (*CLIENTS, 10**9), strict=True):
            part = [a for a in answers if a.case.backend == engine]
            part = [a for a in part if low < a.case.concurrency <= high]
            named = f"{engine}, {low + 1} to {high}" if high < 10**9 else f"{engine}, more"
            lines += [_silicon_row(named, part)] if part else []
    return lines


def _unanswered(cases: list[Case], answers: list[Answer]) -> list[Case]:
    known = {answer.case.id for answer in answers}
    return [case for case in cases if case.id not in known]


def _why_not(case: Case) -> str:
    try:
        place(case)
    except UserError as error:
        return str(error).partition(";")[0]
    return "no prediction in the rows given: the run was ended, or they are beyond the tables"


def _silicon_row(name: str, answers: list[Answer]) -> str:
    found = summary(answers)
    cells = [
        str(found["rows"]),
        _mean(found["ttft"]),
        _mean(found["peer_ttft"]),
        _signed(found["ttft_bias"]),
        _mean(found["tpot"]),
        _mean(found["peer_tpot"]),
        _signed(found["tpot_bias"]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def worst_groups(answers: list[Answer], count: int = 10) -> list[str]:
    """By mean error of both metrics, worst first."""
    by_group = {
        name: statistics.fmean(
            abs(a.ttft_ms / a.case.ttft_ms - 1) + abs(a.tpot_ms / a.case.tpot_ms - 1) for a in rows
        )
        for name, rows in grouped(answers).items()
    }
    return sorted(by_group, key=lambda name: -by_group[name])[:count]


def _mean(errors: dict[str, float] | None) -> str:
    return "–" if errors is None else f"{errors['mean']:.1%} ({errors['median']:.1%})"


def _signed(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def prepared(data: Path, store: Path) -> None:
    """The recordings' profiles are in the store; what it has is not added again."""
    folder = data / "profiles" / "llmservingsim"
    command = [str(Path(sys.executable).with_name("servecast")), "store", "import"]
    command += ["llmservingsim", str(folder), "--store", str(store)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rows", type=Path, help="what silicon_gate.py wrote")
    parser.add_argument("--out", type=Path, default=PAGE, help="docs/accuracy.md by default")
    parser.add_argument("--quick", action="store_true", help="one recording, for --out")
    asked = parser.parse_args()
    if asked.rows is None and not asked.quick:
        parser.error("--rows: what silicon_gate.py wrote, or --quick")
    if asked.quick and asked.out == PAGE:
        parser.error("--quick needs --out: the page shows all")
    prepared(asked.data, asked.store)
    count = 1 if asked.quick else len(RECORDINGS)
    recorded, recordings = recorded_section(asked.data, asked.store, count)
    text = "\n".join(recorded if asked.quick else _page(asked, recorded, recordings))
    asked.out.write_text(text + "\n", encoding="utf-8")


def _page(asked: argparse.Namespace, recorded: list[str], recordings: list[Recording]) -> list[str]:
    cases = read_cases(asked.data / "measured" / "silicon")
    answers, code = read_answers(cases, asked.rows)
    open_loop = score(asked.data / "measured" / "apex-plus-h100-vllm-0.6", asked.store)
    return [
        TOP,
        *recorded,
        OPEN_LOOP,
        *open_loop_section(open_loop),
        MIDDLE.format(fitted=", ".join(FITTED), state=state(code)),
        *silicon_section(cases, answers),
        COVERAGE,
        *coverage_section(answers, open_loop["errors"], recordings),
        BOTTOM,
        *(f"{i}. {name}" for i, name in enumerate(worst_groups(answers), start=1)),
    ]


if __name__ == "__main__":
    main()
