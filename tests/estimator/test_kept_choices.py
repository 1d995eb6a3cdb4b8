"""Choices made before: by the very data, of learners that there are; other data are chosen for anew."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from servecast.estimator import kept_choices
from servecast.estimator.kept_choices import KeptChoice, data_key, kept_choice
from servecast.estimator.learners.choice import LEARNERS
from servecast.estimator.models import Fitting, fitted
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples, samples_of
from servecast.estimator.store import Store

KIND = KernelKind("linear", "bf16")


def gemms() -> Samples:
    rows, k, n = (g.ravel() for g in np.meshgrid(2 ** np.arange(6), [128, 256, 512], [128, 256]))
    dims = {"rows": rows, "in_features": k, "out_features": n}
    seconds = np.asarray(3e-6 + 1e-12 * rows * k * n, dtype=np.float64)
    return samples_of(dims, seconds, np.zeros(len(rows), dtype=np.bool_))


def test_the_key_is_of_the_data_the_kernel_and_the_gpus_width() -> None:
    samples = gemms()
    slower = replace(samples, seconds=samples.seconds * 1.01)
    fewer = samples.rows(samples.dims["rows"] > 1)
    keys = {data_key(KIND, each, 132) for each in (samples, slower, fewer)}
    keys |= {data_key(KIND, samples, 108), data_key(KernelKind("linear", "fp8"), samples, 132)}
    assert len(keys) == 5
    assert data_key(KIND, gemms(), 132) in keys


def test_data_never_chosen_for_have_no_kept_choice() -> None:
    assert kept_choice(KIND, gemms(), 132) is None


def test_a_kept_choice_is_fitted_without_another_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cross-validated error stands beside the model, as it was kept."""
    kept = {data_key(KIND, gemms(), 132): KeptChoice("shallow", 0.0123)}
    monkeypatch.setattr(kept_choices, "_kept", lambda: kept)
    with Store.open(":memory:") as store:
        model = fitted(store, Fitting(KIND, gemms(), 132))
    assert (model.learner, model.error) == ("shallow", 0.0123)


def test_every_kept_choice_is_a_learner_with_its_error() -> None:
    text = files("servecast.estimator").joinpath(kept_choices.FILE).read_text(encoding="utf-8")
    for line in json.loads(text).values():
        assert line["learner"] in LEARNERS, line["of"]
        assert 0 < line["error"] < 1, line["of"]
