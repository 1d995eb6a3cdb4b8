"""What was found out before: of the very data, of learners that there are; of other data it is found anew."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import DataMissingError
from servecast.estimator import kept_choices
from servecast.estimator.kept_choices import (
    calibration_line,
    data_key,
    kept_calibration,
    kept_choice,
)
from servecast.estimator.learners.choice import LEARNERS
from servecast.estimator.learners.uncertainty import LEVELS, Calibration
from servecast.estimator.models import Fitting, calibrated, fitted
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Samples, samples_of
from servecast.estimator.store import Store

KIND = KernelKind("linear", "bf16")
SIDES = np.arange(1, 9)


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
    keep(monkeypatch, {"learner": "shallow", "error": 0.0123})
    with Store.open(":memory:") as store:
        model = fitted(store, Fitting(KIND, gemms(), 132))
    assert (model.learner, model.error) == ("shallow", 0.0123)


def keep(monkeypatch: pytest.MonkeyPatch, line: dict[str, object]) -> None:
    """As if the file had this line of the test's data alone."""
    monkeypatch.setattr(kept_choices, "_kept", lambda: {data_key(KIND, gemms(), 132): line})


def kept_line(half_width: float, **other: object) -> dict[str, object]:
    calibration = Calibration(np.zeros(0), np.full((2, len(LEVELS)), half_width))
    return {"learner": "shallow", "error": 0.0123} | calibration_line(calibration) | other


def test_a_kept_calibration_answers_without_another_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, kept_line(0.125))
    with Store.open(":memory:") as store:
        found = calibrated(store, Fitting(KIND, gemms(), 132))
        assert store.artefacts() == {"model": 1}, "only the model was fitted"
    assert found.half_widths.tolist() == [[0.125] * 4] * 2


@pytest.mark.parametrize("stale", [{"code": "of other code"}, {"learner": "few"}])
def test_a_calibration_of_other_code_or_another_learner_is_never_used(
    monkeypatch: pytest.MonkeyPatch, stale: dict[str, object]
) -> None:
    keep(monkeypatch, kept_line(0.125, **stale))
    assert kept_calibration(KIND, gemms(), 132, "shallow") is None
    slower = replace(gemms(), seconds=gemms().seconds * 1.01)
    assert kept_calibration(KIND, slower, 132, "shallow") is None


def test_modules_beside_the_code_that_errors_depend_on_are_there() -> None:
    folder = files("servecast.estimator").joinpath("learners")
    assert {f"{name}.py" for name in kept_choices.BESIDE} <= {
        file.name for file in folder.iterdir()
    }


def test_a_calibration_is_kept_to_three_digits() -> None:
    edges, widths = np.array([1.23456e-5]), np.full((3, len(LEVELS)), 0.0123456)
    line = calibration_line(Calibration(edges, widths))
    assert line["edges_s"] == [1.235e-05]
    assert line["half_widths"] == [[0.0123] * 4] * 3


def test_every_kept_choice_is_a_learner_with_its_error() -> None:
    text = files("servecast.estimator").joinpath(kept_choices.FILE).read_text(encoding="utf-8")
    for line in json.loads(text).values():
        assert line["learner"] in LEARNERS, line["of"]
        assert 0 < line["error"] < 1, line["of"]
        if "code" in line:
            classes = len(line["edges_s"]) + 2
            assert np.array(line["half_widths"]).shape == (classes, len(LEVELS)), line["of"]


def test_a_model_that_answers_faster_than_its_gpu_can_is_not_saved() -> None:
    """A microsecond each: an H100 reads the larger matrices in no less than two."""
    h100, (rows, k, n) = (
        shipped_skus()["h100-sxm"],
        np.meshgrid([1, 2, 4], 1024 * SIDES, 1024 * SIDES),
    )
    dims = {"rows": rows.ravel(), "in_features": k.ravel(), "out_features": n.ravel()}
    seconds = np.full(rows.size, 1e-6)
    samples = samples_of(dims, seconds, np.zeros(rows.size, dtype=np.bool_))
    with Store.open(":memory:") as store:
        message = r"h100-sxm: the model of linear bf16 answers \d+% .* it is not saved; are these"
        with pytest.raises(DataMissingError, match=message):
            fitted(store, Fitting(KIND, samples, 132, sku=h100))
        assert store.artefacts() == {}
        assert fitted(store, Fitting(KIND, replace(samples, seconds=1e-4 + seconds), 132, sku=h100))
