"""Fitted models of kernels, kept in the store by the hash of their data and of the code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import SEQUENCE_KERNELS, KernelShape
from servecast.estimator.kept_choices import (
    KeptChoice,
    data_key,
    kept_calibration,
    kept_choice,
)
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.forest import FlatForest, KernelModel
from servecast.estimator.learners.uncertainty import Calibration
from servecast.estimator.physics import COLLECTIVES, KernelKind, shortest_s
from servecast.estimator.predictor import Samples
from servecast.estimator.store import Store

CHECKED = 500  # cases of a model's own are held against physics
SLACK = 0.1  # of the floor: a model near it errs to both sides
VIOLATIONS = 0.01

MIN_SAMPLES = 20  # below, a forest knows nothing that the datasheet does not

SM_COUNTS = {
    "a100": 108,
    "a30": 56,
    "a40": 84,
    "b200": 148,
    "b300": 148,
    "gb200": 148,
    "gb300": 148,
    "h100": 132,
    "h200": 132,
    "l40s": 142,
    "rtx-4090": 128,
    "rtx-pro-6000": 188,
}


def num_sms_of(sku: str) -> int:
    """Streaming multiprocessors; an unknown GPU counts as an H100, which only shapes features."""
    matching = [count for name, count in SM_COUNTS.items() if sku.startswith(name)]
    return max(matching, default=SM_COUNTS["h100"])


# What a prediction depends on besides data and learners.
PREDICTING = (
    "anchored_times",
    "attention_times",
    "build",
    "collective_times",
    "draws",
    "load",
    "mixed_times",
    "models",
    "noise",
    "physics",
    "predictor",
    "saved_tables",
    "skewed_times",
    "sources",
    "tables",
    "token_times",
)


@cache
def code_version() -> str:
    """Changes with any module that a prediction depends on."""
    folder = files("servecast.estimator")
    learners = [file for file in folder.joinpath("learners").iterdir() if file.name.endswith(".py")]
    digest = hashlib.sha256()
    for file in (
        *(folder.joinpath(f"{name}.py") for name in PREDICTING),
        *sorted(learners, key=str),
    ):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def needs_model(kind: KernelKind, shapes: set[KernelShape], samples: Samples) -> bool:
    """Collectives are looked up; attention is too, at head counts that were measured."""
    if kind.kernel in COLLECTIVES or len(samples.seconds) < MIN_SAMPLES:
        return False
    if kind.kernel.startswith(SEQUENCE_KERNELS):
        return any(not _covers(kind, dict(shape.dims), samples) for shape in shapes)
    return True


def _covers(kind: KernelKind, shape: dict[str, int], samples: Samples) -> bool:
    """Whether the shape's own rows suffice: decodes at two contexts, prefills on a full grid."""
    if kind.kernel.startswith("delta"):
        axis = "batch" if kind.kernel.endswith("_decode") else "chunk"
        return len(samples.axis_of(shape, axis)) > 1
    contexts = samples.axis_of(shape, "context")
    if kind.kernel.endswith("_decode"):
        return len(contexts) > 1
    chunks = samples.axis_of(shape, "chunk")
    same = np.logical_and.reduce([samples.dims[name] == size for name, size in shape.items()])
    alone = np.count_nonzero(same & (samples.dims["batch"] == 1))
    return len(chunks) > 1 and int(alone) >= len(chunks) * len(contexts)


@dataclass(frozen=True, slots=True, eq=False)
class Fitting:
    """A kernel's samples on a GPU of ``sms`` multiprocessors, where they are few the same kernel's on other
    GPUs to borrow from, and the GPU's datasheet where there is one.
    """

    kind: KernelKind
    samples: Samples
    sms: int
    others: tuple[Fitting, ...] = ()
    sku: Sku | None = None


def fitted(store: Store, fitting: Fitting) -> KernelModel:
    """The kernel's model, from the store where the same code fitted the same data before.

    Raises:
        DataMissingError: the model is against physics; it is not saved.
    """
    key = _key("model", fitting)
    body = store.cached(key)
    if body is None:
        donors = tuple(fitted(store, other).forest for other in fitting.others)
        model = _fit(fitting, donors)
        refuse_against_physics(model, fitting)
        body = model.to_bytes()
        store.put_cached(key, "model", body)
    return KernelModel.from_bytes(body)


def refuse_against_physics(model: KernelModel, fitting: Fitting) -> None:
    """Answers are raised to what the datasheet allows one by one; a model that needs it often learnt of
    something else than this GPU.

    Raises:
        DataMissingError: too many of its own cases are answered faster than the datasheet allows.
    """
    if fitting.sku is None:
        return
    chosen = np.arange(len(fitting.samples.seconds)) % -(-len(fitting.samples.seconds) // CHECKED)
    part = fitting.samples.rows(chosen == 0)
    seconds = model.predict(feature_matrix(fitting.kind, part.dims, fitting.sms))
    floor = shortest_s(fitting.sku, fitting.kind, part.dims)
    share = float(np.mean(seconds < (1 - SLACK) * floor))
    if share > VIOLATIONS:
        raise DataMissingError(
            f"{fitting.sku.name}: the model of {fitting.kind.kernel} {fitting.kind.dtype} answers"
            f" {share:.0%} of its own cases faster than the datasheet allows (at most {VIOLATIONS:.0%} may"
            " be): it is not saved; are these measurements of this GPU? `servecast store doctor` shows them"
        )


def calibrated(store: Store, fitting: Fitting) -> Calibration:
    """How far the kernel's model is off on shapes not seen: kept from before, or a handful of fits, once."""
    learner = fitted(store, fitting).learner
    known = fitting.kind, fitting.samples, fitting.sms
    kept = kept_calibration(*known, learner)
    if kept is not None:
        return kept
    key = _key("calibration", fitting)
    body = store.cached(key)
    if body is None:
        from servecast.estimator.learners.calibrate import calibrate  # scikit-learn, as below

        donors = tuple(fitted(store, other).forest for other in fitting.others)
        body = calibrate(*known, learner, donors=donors).to_bytes()
        store.put_cached(key, "calibration", body)
    return Calibration.from_bytes(body)


def _key(what: str, fitting: Fitting) -> str:
    digest = hashlib.sha256(f"{what} {code_version()}".encode())
    for each in (fitting, *fitting.others):
        digest.update(data_key(each.kind, each.samples, each.sms).encode())
    return digest.hexdigest()


def _fit(fitting: Fitting, donors: tuple[FlatForest, ...]) -> KernelModel:
    # Importing scikit-learn takes a second, which a run that finds its models in the store saves.
    from servecast.estimator.learners.choice import LEARNERS, choose, fit_best

    known = fitting.kind, fitting.samples, fitting.sms
    kept = kept_choice(*known)
    if kept is None or kept.learner not in LEARNERS:
        choice = choose(*known, donors=donors)
        kept = KeptChoice(choice.best, choice.error)
    return replace(fit_best(*known, kept.learner, donors), error=kept.error)
