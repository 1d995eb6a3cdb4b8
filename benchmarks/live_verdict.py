"""What the live comparison found, judged and printed."""

from __future__ import annotations

from statistics import median
from typing import Any

STEP_LIMIT = LATENCY_LIMIT = 0.10
STOLEN, SLOWER, REPEAT = 0.03, 0.20, 0.10
BUSY = 4.0  # programs that want a processor, over a minute: more, and they time each other's caches
GATED = [(m, p) for m in ("ttft", "tpot", "e2e") for p in ("p50", "p90")]


def rejections(found: dict[str, Any]) -> list[str]:
    """Why the machine was not quiet enough to judge a prediction; none is well."""
    why = []
    if found["slower"] > SLOWER:
        why.append(f"fixed work took up to {found['slower']:.0%} longer than at another time")
    if found["busy"] > BUSY:
        why.append(f"{found['busy']:.0f} programs wanted the processor")
    for run in found["runs"]:
        if run["stolen"] > STOLEN:
            why.append(f"{run['name']}: others had {run['stolen']:.0%} of the processor")
        name, (nearest, *_) = max(run["floor"].items(), key=lambda pair: pair[1][0])
        if nearest > REPEAT:
            why.append(f"{run['name']}: no two repeats are within {nearest:.0%} in {name}")
    return why


def too_far(results: list[dict[str, Any]]) -> list[str]:
    """What is above its limit; none is well."""
    why = []
    for run in results:
        if run["step_mape"] > STEP_LIMIT:
            why.append(f"{run['name']}: step times by {run['step_mape']:.1%}")
        for name in (" ".join(pair) for pair in GATED):
            error = run["latencies"][name]["error"]
            if abs(error) > LATENCY_LIMIT and decided(run, name):
                why.append(f"{run['name']}: {name} by {error:+.1%}")
    return why


def decided(run: dict[str, Any], name: str) -> bool:
    """Whether all repeats are as near to their median as a prediction has to be, and so is, by predictions
    alone, what the trace gives on a machine a little faster or slower.
    """
    return max(run["floor"][name][-1], run["moves"][name]) <= LATENCY_LIMIT


def not_decided(results: list[dict[str, Any]]) -> list[str]:
    """What neither passed nor failed, how far a repeat of it is from the median, and how far it moves."""
    return [
        f"{run['name']}: {name}, a repeat is {run['floor'][name][-1]:.1%} from the median,"
        f" predictions move by {run['moves'][name]:.1%}"
        for run in results
        for name in (" ".join(pair) for pair in GATED)
        if not decided(run, name)
    ]


def table(found: dict[str, Any]) -> str:
    """Errors of prediction, and in brackets how far the repeats are from their median at most.

    ``slow`` is how much longer fixed work took than during the profile.
    """
    names = [" ".join(pair) for pair in GATED]
    lines = [
        "".join(
            [
                "run".ljust(12),
                "slow".rjust(6),
                "steps".rjust(7),
                "step MAPE".rjust(11),
                *(n.rjust(18) for n in names),
            ]
        )
    ]
    for run in found["runs"]:
        errors = (
            f"{run['latencies'][name]['error']:+.1%} ({run['floor'][name][-1]:.1%})".rjust(18)
            for name in names
        )
        lines.append(
            f"{run['name']:<12}{median(run['slowness']):>6.2f}{run['steps']:>7}"
            f"{run['step_mape']:>11.1%}" + "".join(errors)
        )
    step_ms, sequence_us = found["host_step_s"] * 1e3, found["host_per_sequence_s"] * 1e6
    fitted, held_out = (found["probe_mape"][half] for half in ("fitted", "held out"))
    host = f"host: {step_ms:.2f} ms a step, {sequence_us:.0f} us a sequence"
    probe = f"the probe's steps, by {fitted:.1%} of the half fitted to, {held_out:.1%} of the other"
    clock = (
        f"{found['clock']['name']}, by fixed work of {found['clock']['reference_s'] * 1e3:.2f} ms"
    )
    lines += [f"clock: {clock}; {host}", f"off are {probe}"]
    moves = (f"{run['name']} {max(run['moves'].values()):.1%}" for run in found["runs"])
    lines += [f"by predictions alone statistics move by at most: {', '.join(moves)}"]
    lines += [f"not decided: {why}" for why in found["not_decided"]]
    lines += [f"REJECTED: {why}" for why in found["rejected"]]
    lines += [f"too far: {why}" for why in found["too_far"]]
    return "\n".join(lines)
