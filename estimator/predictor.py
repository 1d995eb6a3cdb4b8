"""Times of kernel cases on one GPU, with where each comes from.

A case that was measured is answered with its measurement, one among measurements by a fitted model, one
that nothing covers by the datasheet. No answer is shorter than physics allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.hardware import Sku
from servecast.estimator.anchored_times import believed, missed_between
from servecast.estimator.collective_times import algorithm_starts, between_sizes
from servecast.estimator.learners.beyond import LINE_SHARE as BEYOND_SHARE
from servecast.estimator.learners.beyond import beyond, lined_beyond
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.forest import KernelModel
from servecast.estimator.learners.roofline import analytical_s
from servecast.estimator.learners.uncertainty import (
    ANALYTICAL_HALF_WIDTH,
    Z_OF_90,
    Calibration,
)
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.noise import ASSUMED
from servecast.estimator.physics import COLLECTIVES, Dims, KernelKind, shortest_s
from servecast.estimator.tables import SOURCE_CODE, SOURCES, Source

Codes = NDArray[np.int8]

NORMAL_BY_MEAN = 1.2533  # a normal's standard deviation by its mean absolute value, sqrt(pi / 2)
# GEMMs of more rows than any measured err by 1.4 to 3 times as much as those of unseen shapes.
BEYOND_FACTOR = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Seconds [cases] and, as indices into SOURCES [cases], where they come from.

    ``raised`` counts the cases that physics made longer than the data said.
    """

    seconds: Floats
    source: Codes
    raised: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Soundly measured cases of one kernel, sorted by their key; ``local`` marks our own agents' ones."""

    dims: dict[str, Ints]
    seconds: Floats
    local: NDArray[np.bool_]
    keys: NDArray[np.void]

    def find(self, dims: Dims) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """For each case a row, and whether that row is the very case."""
        wanted = case_keys({name: dims[name] for name in self.dims})
        row = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return row, self.keys[row] == wanted

    def rows(self, chosen: NDArray[np.bool_]) -> Samples:
        dims = {name: column[chosen] for name, column in self.dims.items()}
        return Samples(dims, self.seconds[chosen], self.local[chosen], self.keys[chosen])

    def axis_of(self, fixed: Mapping[str, int], axis: str) -> Ints:
        """Increasing values of ``axis`` at which a shape was measured; empty where it never was."""
        same = np.logical_and.reduce([self.dims[name] == value for name, value in fixed.items()])
        return np.unique(self.dims[axis][same])

    def inside(self, dims: Dims) -> NDArray[np.bool_]:
        """Whether each case lies in the box that the samples span."""
        within = [(dims[n] >= d.min()) & (dims[n] <= d.max()) for n, d in self.dims.items()]
        return np.asarray(np.logical_and.reduce(within), dtype=np.bool_)


def case_keys(dims: Dims) -> NDArray[np.void]:
    """One sortable value [cases] per case, equal where all dimensions are."""
    rows = np.stack([dims[name].astype(">u8") for name in sorted(dims)], axis=1)
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * 8))).reshape(-1)


def samples_of(dims: dict[str, Ints], seconds: Floats, local: NDArray[np.bool_]) -> Samples:
    """Repeats of a case become their median, of an even number the mean of the two in the middle; our own
    measurements displace imported ones.
    """
    keys = case_keys(dims)
    displaced = ~local & np.isin(keys, keys[local])
    rows = np.flatnonzero(~displaced)
    unique, case = np.unique(keys[rows], return_inverse=True)
    order = np.lexsort((seconds[rows], case.reshape(-1)))
    counts = np.bincount(case.reshape(-1))
    first = np.cumsum(counts) - counts
    low, high = (rows[order[first + half]] for half in ((counts - 1) // 2, counts // 2))
    median = (seconds[low] + seconds[high]) / 2
    return Samples({n: d[low] for n, d in dims.items()}, median, local[low], unique)


@dataclass(frozen=True, slots=True, eq=False)
class ErrorDraw:
    """One run's errors of a kernel, of the logarithm of time: by class where a model answers [classes + 1],
    where the datasheet does, and between one run of a measurement and the next.
    """

    calibration: Calibration | None
    of_model: Floats
    of_datasheet: float
    of_measured: float

    def factor(self, seconds: Floats, source: Codes) -> Floats:
        analytical = source == SOURCE_CODE[Source.ANALYTICAL]
        error = np.where(analytical, self.of_datasheet, self.of_measured)
        if self.calibration is not None:
            outside = (source == SOURCE_CODE[Source.EXTRAPOLATED]).astype(np.int64)
            of_model = self.of_model[self.calibration.classes(seconds, outside)]
            modelled = outside | (source == SOURCE_CODE[Source.INTERPOLATED])
            error = np.where(modelled, of_model, error)
        return np.asarray(np.exp(error), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Times on one SKU. Holds arrays only, so that it travels between processes.

    ``kinds`` are those it was made for. ``attention_writes_kv``: attention samples include storing the
    step's keys and values.
    """

    sku: Sku
    num_sms: int
    kinds: tuple[KernelKind, ...] = ()
    samples: Mapping[KernelKind, Samples] = field(default_factory=dict)
    models: Mapping[KernelKind, KernelModel] = field(default_factory=dict)
    attention_writes_kv: bool = False
    notes: tuple[str, ...] = ()
    errors: Mapping[KernelKind, ErrorDraw] = field(default_factory=dict)
    noise: Mapping[KernelKind, float] = field(
        default_factory=dict
    )  # of measured times, see noise.py
    # By all that an answer depends on, so that copies of a predictor may share it: stages launch the same
    # kernels, and tables of another draw ask for the same cases.
    answers: dict[tuple[object, ...], tuple[Floats, Codes]] = field(default_factory=dict)

    def predict(self, kind: KernelKind, dims: Dims) -> Predicted:
        """Times of cases given as columns [cases] per dimension, floored by physics."""
        seconds, source = self._remembered(kind, dims)
        if kind in self.errors:
            seconds = seconds * self.errors[kind].factor(seconds, source)
        floor = shortest_s(self.sku, kind, dims)
        raised = int(np.count_nonzero(seconds < floor))
        return Predicted(np.maximum(seconds, floor), source, raised)

    def deviation(self, kind: KernelKind, source: Codes) -> Floats:
        """What answers may be off by: standard deviations of the logarithm, by where they come from."""
        model, measured = self.models.get(kind), self.noise.get(kind, ASSUMED)
        inside = measured
        if model is not None:
            inside = max(inside, NORMAL_BY_MEAN * model.error)
        by_source = np.full(len(SOURCES), measured)
        by_source[SOURCE_CODE[Source.INTERPOLATED]] = inside
        by_source[SOURCE_CODE[Source.EXTRAPOLATED]] = BEYOND_FACTOR * inside
        by_source[SOURCE_CODE[Source.ANALYTICAL]] = ANALYTICAL_HALF_WIDTH / Z_OF_90
        return np.asarray(by_source[source], dtype=np.float64)

    def _remembered(self, kind: KernelKind, dims: Dims) -> tuple[Floats, Codes]:
        cases = tuple((name, dims[name].dtype, dims[name].tobytes()) for name in sorted(dims))
        key = (self.sku, kind, self.samples.get(kind), self.models.get(kind), cases)
        if key not in self.answers:
            self.answers[key] = self._unguarded(kind, dims)
        return self.answers[key]

    def _unguarded(self, kind: KernelKind, dims: Dims) -> tuple[Floats, Codes]:
        samples = self.samples.get(kind)
        if samples is None:
            return self._analytical(kind, dims)
        if kind.kernel in COLLECTIVES:
            return self._collective(kind, dims, samples)
        seconds, source = self._modelled(kind, dims, samples)
        row, exact = samples.find(dims)
        known = np.where(
            samples.local[row], SOURCE_CODE[Source.MEASURED], SOURCE_CODE[Source.IMPORTED]
        )
        answer = np.where(exact, samples.seconds[row], seconds)
        return answer, np.where(exact, known, source).astype(np.int8)

    def _modelled(self, kind: KernelKind, dims: Dims, samples: Samples) -> tuple[Floats, Codes]:
        model = self.models.get(kind)
        if model is None:
            return self._between(kind, dims, samples)
        features = feature_matrix(kind, dims, self.num_sms)
        seconds = model.predict(features)
        if "rows" in dims:
            share = believed(kind)
            missed = missed_between(
                lambda points: model.predict(feature_matrix(kind, points, self.num_sms), share),
                dims,
                (samples.dims, samples.seconds),
            )
            within = seconds if share == 1 else model.predict(features, share)
            seconds = np.where(np.isnan(missed), seconds, within * np.exp(missed))
            seconds = self._lined(kind, dims, samples, seconds)
        inside = SOURCE_CODE[Source.INTERPOLATED]
        outside = SOURCE_CODE[Source.EXTRAPOLATED]
        return seconds, np.where(samples.inside(dims), inside, outside).astype(np.int8)

    def _between(self, kind: KernelKind, dims: Dims, samples: Samples) -> tuple[Floats, Codes]:
        """Of too few samples for a model: the datasheet's, put right between a shape's measured rows."""
        seconds, source = self._analytical(kind, dims)
        if "rows" not in dims:
            return seconds, source
        missed = missed_between(
            lambda points: analytical_s(self.sku, kind, points),
            dims,
            (samples.dims, samples.seconds),
        )
        outside = np.isnan(missed)
        found = np.where(outside, seconds, seconds * np.exp(missed))
        inside = SOURCE_CODE[Source.INTERPOLATED]
        return found, np.where(outside, source, inside).astype(np.int8)

    def _lined(self, kind: KernelKind, dims: Dims, samples: Samples, seconds: Floats) -> Floats:
        """Beyond the most rows measured, where lines foretell better than trees."""
        most = int(samples.dims["rows"].max())
        cases = np.flatnonzero(dims["rows"] > most)
        if not len(cases) or not lined_beyond(kind, most):
            return seconds
        wanted = {name: column[cases] for name, column in dims.items()}
        line = beyond(lambda within: self._unguarded(kind, within)[0], wanted, most)
        mixed = seconds.copy()
        mixed[cases] = np.exp(
            BEYOND_SHARE * np.log(line) + (1 - BEYOND_SHARE) * np.log(seconds[cases])
        )
        return mixed

    def _analytical(self, kind: KernelKind, dims: Dims) -> tuple[Floats, Codes]:
        seconds = analytical_s(self.sku, kind, dims)
        return seconds, np.full(len(seconds), SOURCE_CODE[Source.ANALYTICAL], dtype=np.int8)

    def _collective(self, kind: KernelKind, dims: Dims, samples: Samples) -> tuple[Floats, Codes]:
        """Interpolated along the message size at a measured degree: algorithms switch with size, which a
        table keeps and a fit smears.
        """
        seconds, source = self._analytical(kind, dims)
        for degree in np.unique(dims["degree"]).tolist():
            cases = np.flatnonzero(dims["degree"] == degree)
            rows = np.flatnonzero(samples.dims["degree"] == degree)
            if len(rows) < 2:
                continue
            order = rows[np.argsort(samples.dims["payload_bytes"][rows])]
            sizes = samples.dims["payload_bytes"][order].astype(np.float64)
            wanted = np.maximum(dims["payload_bytes"][cases], 1).astype(np.float64)
            starts = algorithm_starts(self.sku.name, kind.kernel, degree)
            seconds[cases] = between_sizes(sizes, samples.seconds[order], wanted, starts)
            known = SOURCE_CODE[Source.MEASURED if samples.local[order[0]] else Source.IMPORTED]
            code = np.where(np.isin(wanted, sizes), known, SOURCE_CODE[Source.INTERPOLATED])
            source[cases] = np.where(wanted > sizes[-1], SOURCE_CODE[Source.EXTRAPOLATED], code)
        return seconds, source
