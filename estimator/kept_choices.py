"""What was found out before of the very same data: `choices.json` spares ten fits of cross-validation and
four of calibration.

A line is found by the hash of its data and says which learner was chosen, which any later code may follow,
and how far that learner's answers are off, which holds for the code that it names alone. Other data, or a
name that no learner has any more, is chosen for anew; another code's errors are looked at anew.
`benchmarks/estimator_choices.py` writes the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from servecast.estimator.learners.uncertainty import Calibration
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples

FILE = "choices.json"
# Modules of learners that do not decide how far one of them is off.
BESIDE = {"baselines", "beyond", "borrowing", "evaluate", "side_by_side"}


def data_key(kind: KernelKind, samples: Samples, num_sms: int) -> str:
    """Of the data alone: a choice outlives changes of code, for it can only be less than the best."""
    digest = hashlib.sha256(f"{kind} {num_sms}".encode())
    for array in (samples.keys, samples.seconds):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class KeptChoice:
    """A learner, and its mean absolute log error on shapes left out."""

    learner: str
    error: float


@cache
def calibrating_code() -> str:
    """Changes with any module that kept errors depend on."""
    folder = files("servecast.estimator").joinpath("learners")
    bodies = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".py")
    }
    digest = hashlib.sha256()
    for name in sorted(bodies):
        if name.removesuffix(".py") not in BESIDE:
            digest.update(bodies[name])
    return digest.hexdigest()[:16]


def kept_choice(kind: KernelKind, samples: Samples, num_sms: int) -> KeptChoice | None:
    """None where these data were never chosen for."""
    line = _kept().get(data_key(kind, samples, num_sms))
    return None if line is None else KeptChoice(line["learner"], float(line["error"]))


def kept_calibration(
    kind: KernelKind, samples: Samples, num_sms: int, learner: str
) -> Calibration | None:
    """None where the learner's errors on these data were never looked at by this very code."""
    line = _kept().get(data_key(kind, samples, num_sms), {})
    if (line.get("learner"), line.get("code")) != (learner, calibrating_code()):
        return None
    return Calibration(np.array(line["edges_s"]), np.array(line["half_widths"]))


def calibration_line(calibration: Calibration) -> dict[str, Any]:
    """What a line of the file says of a calibration by this code."""
    return {
        "code": calibrating_code(),
        "edges_s": [float(f"{x:.4g}") for x in calibration.edges_s],
        "half_widths": [[float(f"{x:.3g}") for x in row] for row in calibration.half_widths],
    }


@cache
def _kept() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        files("servecast.estimator").joinpath(FILE).read_text(encoding="utf-8")
    )
    return found
