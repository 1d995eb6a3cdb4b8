"""How often intervals hold: widths from some measured values, coverage on others.

A width is the largest distance of nine in ten calibrating values, as a factor either way. Points are split by
models (`silicon_points.FITTED`), and by whether their runs draft; a recording's widths are the other
recordings'.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, log

from silicon_answers import Answer
from silicon_runs import drafts

NOMINAL = 0.9
METRICS = ("queue_delay", "ttft", "tpot", "e2e")
OF_POINTS = ("ttft", "tpot")
CLASSES = {"plain": False, "drafting": True}
Recording = list[tuple[str, float]]
"""Metric and distance of every statistic of a recorded run."""


def distance(predicted: float, measured: float) -> float:
    """The logarithm of the factor between them."""
    return abs(log(predicted / measured))


def width(distances: Sequence[float]) -> float:
    """That one more value keeps to with `NOMINAL` probability, or as nearly as so few can tell."""
    rank = ceil(NOMINAL * (len(distances) + 1))
    return sorted(distances)[min(rank, len(distances)) - 1]


def coverage_section(answers: list[Answer], recordings: list[Recording]) -> list[str]:
    """Tables of the points and of the recordings."""
    engines = sorted({answer.case.backend for answer in answers})
    lines = [
        f"| points | factor either way | models fitted to | models held out | {' | '.join(engines)} |",
        f"| --- | ---: | ---: | ---: | {'---: | ' * len(engines)}".rstrip(),
    ]
    inside: dict[str, list[bool]] = {}
    for metric in OF_POINTS:
        for kind, drafting in CLASSES.items():
            of_kind = [answer for answer in answers if drafts(answer.case) == drafting]
            fitted = [_distance(a, metric) for a in of_kind if a.case.is_fitted]
            if not fitted:
                continue
            held = [a for a in of_kind if not a.case.is_fitted]
            reach = width(fitted)
            parts = [[a for a in held if a.case.backend == engine] for engine in engines]
            shares = [
                _share(_inside([_distance(a, metric) for a in p], reach)) for p in (held, *parts)
            ]
            cells = [f"{exp(reach):.2f}", _share(_inside(fitted, reach)), *shares]
            lines.append(f"| {metric}, {kind} | {' | '.join(cells)} |")
            inside.setdefault(metric, []).extend(
                _inside([_distance(a, metric) for a in held], reach)
            )
    return [*lines, "", *_recorded(recordings, inside)]


def _recorded(recordings: list[Recording], of_points: dict[str, list[bool]]) -> list[str]:
    """Each recording's statistics in the width of the others'; with the points held out."""
    lines = [
        "| recordings | factors either way | values | inside | with the points held out |",
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


def _distance(answer: Answer, metric: str) -> float:
    return distance(getattr(answer, f"{metric}_ms"), getattr(answer.case, f"{metric}_ms"))


def _inside(distances: Sequence[float], reach: float) -> list[bool]:
    return [each <= reach for each in distances]


def _share(inside: list[bool]) -> str:
    return f"{sum(inside) / len(inside):.1%}" if inside else "–"
