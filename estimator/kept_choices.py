"""Which learner was chosen before for the very same data: `choices.json` spares ten fits of cross-validation.

Other data, or a name that no learner has any more, is chosen for anew. `benchmarks/estimator_choices.py`
writes the file.
"""

from __future__ import annotations

import hashlib
import json
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


def kept_choice(kind: KernelKind, samples: Samples, num_sms: int) -> str | None:
    """The learner's name, None where these data were never chosen for."""
    return _kept().get(data_key(kind, samples, num_sms))


@cache
def _kept() -> dict[str, str]:
    text = files("servecast.estimator").joinpath(FILE).read_text(encoding="utf-8")
    return {key: str(line["learner"]) for key, line in json.loads(text).items()}
