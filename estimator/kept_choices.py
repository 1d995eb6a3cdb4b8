"""Which learner was chosen before for the very same data: `choices.json` spares ten fits of cross-validation.

Other data, or a name that no learner has any more, is chosen for anew. `benchmarks/estimator_choices.py`
writes the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples

FILE = "choices.json"


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


def kept_choice(kind: KernelKind, samples: Samples, num_sms: int) -> KeptChoice | None:
    """None where these data were never chosen for."""
    return _kept().get(data_key(kind, samples, num_sms))


@cache
def _kept() -> dict[str, KeptChoice]:
    lines = json.loads(files("servecast.estimator").joinpath(FILE).read_text(encoding="utf-8"))
    return {key: KeptChoice(x["learner"], float(x["error"])) for key, x in lines.items()}
