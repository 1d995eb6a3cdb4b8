"""How often intervals hold: widths from some measured values, coverage on others.

A width is the largest distance of nine in ten calibrating values, as a factor either way. Points are split by
models (`silicon_points.FITTED`), and by whether their runs draft, open-loop runs by models; a recording's
widths are the other recordings'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log

from silicon_answers import Answer
from silicon_points import FITTED, SHORTEST, Case
from silicon_runs import drafts

NOMINAL = 0.9
METRICS = ("queue_delay", "ttft", "tpot", "e2e")
OF_POINTS = ("ttft", "tpot", "e2e")
OF_OPEN_LOOP = ("ttft", "tpot")
CLASSES = {"plain points": False, "drafting points": True}
Recording = list[tuple[str, float]]
"""Metric and distance of every statistic of a recorded run."""
OpenLoop = dict[str, list[tuple[float, float | None]]]
"""Errors of TTFT and TPOT of runs, by a name that begins with the engine and the model."""


def distance(predicted: float, measured: float) -> float:
    """The logarithm of the factor between them."""
    return abs(log(predicted / measured))


def width(distances: Sequence[float]) -> float:
    """That one more value keeps to with `NOMINAL` probability, or as nearly as so few can tell."""
    rank = ceil(NOMINAL * (len(distances) + 1))
    return sorted(distances)[min(rank, len(distances)) - 1]


@dataclass(frozen=True, slots=True)
class Split:
    """Distances to calibrate on, and by engine those that are held out."""

    name: str
    fitted: list[float]
    held: dict[str, list[float]]


def coverage_section(
    answers: list[Answer], open_loop: OpenLoop, recordings: list[Recording]
) -> list[str]:
    """Tables of the points and open-loop runs, and of the recordings."""
    engines = sorted({answer.case.backend for answer in answers})
    lines = [
        f"| runs | factor either way | models fitted to | models held out | {' | '.join(engines)} |",
        f"| --- | ---: | ---: | ---: | {'---: | ' * len(engines)}".rstrip(),
    ]
    inside: dict[str, list[bool]] = {}
    for metric in OF_POINTS:
        splits = [_of_points(answers, metric, kind) for kind in CLASSES]
        if metric in OF_OPEN_LOOP:
            splits.append(_of_open_loop(open_loop, metric))
        for split in splits:
            if not split.fitted:
                continue
            reach = width(split.fitted)
            parts = [_inside(split.held.get(engine, []), reach) for engine in engines]
            held = [each for part in parts for each in part]
            shares = map(_share, (_inside(split.fitted, reach), held, *parts))
            lines.append(f"| {split.name} | {exp(reach):.2f} | {' | '.join(shares)} |")
            inside.setdefault(metric, []).extend(held)
    return [*lines, "", *_recorded(recordings, inside)]


def _of_points(answers: list[Answer], metric: str, kind: str) -> Split:
    split = Split(f"{metric}, {kind}", [], defaultdict(list))
    for answer in answers:
        case = answer.case
        if drafts(case) == CLASSES[kind]:
            far = distance(_mean_ms(answer, case, metric), _mean_ms(case, case, metric))
            (split.fitted if case.is_fitted else split.held[case.backend]).append(far)
    return split


def _mean_ms(times: Answer | Case, case: Case, metric: str) -> float:
    """From the first token of a request to its last there are as many gaps as tokens, less one."""
    if metric != "e2e":
        return float(getattr(times, f"{metric}_ms"))
    shortest = SHORTEST if case.inferencex else 1.0
    return times.ttft_ms + times.tpot_ms * (case.osl * (1 + shortest) / 2 - 1)


def _of_open_loop(runs: OpenLoop, metric: str) -> Split:
    split = Split(f"{metric}, open loop", [], defaultdict(list))
    for name, errors in runs.items():
        engine, model, _ = name.split(maxsplit=2)
        into = split.fitted if any(model in each for each in FITTED) else split.held[engine]
        found = (row[OF_OPEN_LOOP.index(metric)] for row in errors)
        into += [distance(1 + error, 1) for error in found if error is not None]
    return split


def _recorded(recordings: list[Recording], of_points: dict[str, list[bool]]) -> list[str]:
    """Each recording's statistics in the width of the others'; with all that is held out."""
    lines = [
        "| recordings | factors either way | values | inside | with all held out |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for metric in METRICS:
        factors, inside = [], []
        for mine in recordings:
            others = [
                d for one in recordings if one is not mine for name, d in one if name == metric
            ]
            if others:
                factors.append(width(others))
                inside += _inside([d for name, d in mine if name == metric], factors[-1])
        both = [*inside, *of_points[metric]] if metric in of_points else []
        cells = [", ".join(f"{exp(f):.3f}" for f in factors), str(len(inside))]
        lines.append(f"| {metric} | {' | '.join(cells)} | {_share(inside)} | {_share(both)} |")
    return lines


def _inside(distances: Sequence[float], reach: float) -> list[bool]:
    return [each <= reach for each in distances]


def _share(inside: list[bool]) -> str:
    return f"{sum(inside) / len(inside):.1%}" if inside else "–"
