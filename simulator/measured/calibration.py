"""Refits named host and engine terms, and a factor per class of kernels, to a recording.

Gauss-Newton on the logarithms of TTFT and of time per output token, averaged over blocks of requests that
arrived one after another, with a prior that pulls every term to where it was. What the recording cannot tell
stays: a term is identified only if the recording makes it much surer than the prior was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.records import Records
from servecast.simulator.measured.run import MeasuredRun
from servecast.simulator.measured.validate import predicted_latencies
from servecast.simulator.traffic.workload import Floats, Ints

BLOCKS = 24
LEAST_REQUESTS = 4 * BLOCKS
METRICS = ("ttft", "tpot")
ROUNDS, HALVINGS = 6, 5
LEAST_NOISE = 0.01  # of a block's mean; no clock and no kernel is surer
IDENTIFIED = 0.5  # a term's spread must fall to this share of what it was
DEPENDENT = 0.9  # two terms with a higher correlation cannot be told apart


@dataclass(frozen=True, slots=True)
class Term:
    """A parameter: where it is, and how far it may well be from there (1 sd)."""

    name: str
    value: float
    prior_sd: float
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A term after the fit. ``refused`` says why it was left where it was, or is empty."""

    name: str
    before: float
    after: float
    sd: float
    refused: str = ""


Model = Callable[[Mapping[str, float]], Records]
"""The recording's simulation with these terms."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Requests in blocks of arrival: which of them are fitted to; the others are held out."""

    of_request: Ints  # [requests]

    @property
    def fitted(self) -> NDArray[np.bool_]:
        """Every second block."""
        return np.asarray(np.arange(BLOCKS) % 2 == 0, dtype=np.bool_)


def blocks_of(run: MeasuredRun) -> Blocks:
    """
    Raises:
        UserError: too few requests, or neither TTFT nor TPOT.
    """
    count = len(run.workload)
    if count < LEAST_REQUESTS:
        raise UserError(
            f"{run.workload.name}: {count} requests; calibrating takes at least {LEAST_REQUESTS}"
        )
    if not set(METRICS) & set(run.latencies_s):
        raise UserError(f"{run.workload.name}: has neither TTFT nor time per output token")
    return Blocks(np.arange(count) * BLOCKS // count)


def fit(run: MeasuredRun, terms: Sequence[Term], model: Model) -> list[Fitted]:
    """The terms that the fitted blocks identify, moved; the others where they were, and why.

    Raises:
        UserError: as `blocks_of`.
    """
    problem = _Problem(run, blocks_of(run), model, {term.name: term.value for term in terms})
    left = list(terms)
    refused: list[Fitted] = []
    while True:
        values, covariance = _gauss_newton(problem, left)
        worst = _least_identified(left, covariance)
        if worst is None:
            break
        index, why = worst
        term = left.pop(index)
        refused.append(Fitted(term.name, term.value, term.value, term.prior_sd, why))
        if not left:
            return refused
    sds = np.sqrt(np.diag(covariance))
    found = [
        Fitted(t.name, t.value, float(v), float(sd))
        for t, v, sd in zip(left, values, sds, strict=True)
    ]
    return [*found, *refused]


def errors(run: MeasuredRun, records: Records, client_s: float, held_out: bool) -> dict[str, float]:
    """Mean error by metric, over the held-out requests or those fitted to; of those that took any time."""
    blocks = blocks_of(run)
    wanted = blocks.fitted[blocks.of_request] != held_out
    predicted = predictions(run, records, client_s)
    found = {}
    for metric, measured_s in run.latencies_s.items():
        both = wanted & np.isfinite(measured_s) & np.isfinite(predicted[metric])
        if measured_s[both].sum() > 0:
            found[metric] = float(predicted[metric][both].sum() / measured_s[both].sum() - 1)
    return found


def predictions(run: MeasuredRun, records: Records, client_s: float) -> dict[str, Floats]:
    """The simulated latencies on the recording's clock."""
    found = predicted_latencies(records)
    outside_s = client_s if run.clock == "client" else 0.0
    return found | {name: found[name] + outside_s for name in ("ttft", "e2e")}


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """``defaults`` are the terms that are not being moved."""

    run: MeasuredRun
    blocks: Blocks
    model: Model
    defaults: Mapping[str, float]


def _gauss_newton(problem: _Problem, terms: Sequence[Term]) -> tuple[Floats, Floats]:
    """Values, and their covariance; [terms], [terms, terms]."""
    start = np.array([term.value for term in terms])
    scale = np.array([term.prior_sd for term in terms])
    least = np.array([term.least for term in terms])
    values, precision = start.copy(), np.eye(len(terms))
    missed, noise = _missed(problem, terms, values)
    for _ in range(ROUNDS):
        weighted = _slopes(problem, terms, values, missed) * scale / noise[:, None]
        precision = weighted.T @ weighted + np.eye(len(terms))
        pull = weighted.T @ (missed / noise) - (values - start) / scale
        step = np.linalg.solve(precision, pull) * scale
        cost = _cost(missed, noise, (values - start) / scale)
        for _ in range(HALVINGS):
            tried = np.maximum(values + step, least)
            found, _ = _missed(problem, terms, tried)
            if _cost(found, noise, (tried - start) / scale) < cost:
                values, missed = tried, found
                break
            step = step / 2  # a queue answers anything but linearly
    covariance = np.linalg.inv(precision) * np.outer(scale, scale)
    return values, np.asarray(covariance, dtype=np.float64)


def _slopes(problem: _Problem, terms: Sequence[Term], values: Floats, missed: Floats) -> Floats:
    """Of the logarithms of the predictions, [blocks, terms]; over a whole spread of the prior, because a
    queue shuffles who waits at any small change.
    """
    slopes = np.empty((len(missed), len(terms)))
    for i, term in enumerate(terms):
        aside = values.copy()
        aside[i] += term.prior_sd
        slopes[:, i] = (missed - _missed(problem, terms, aside)[0]) / term.prior_sd
    return slopes


def _cost(missed: Floats, noise: Floats, moved: Floats) -> float:
    return float(np.sum((missed / noise) ** 2) + np.sum(moved**2))


def _missed(problem: _Problem, terms: Sequence[Term], values: Floats) -> tuple[Floats, Floats]:
    """Logarithm of measured over predicted by fitted block and metric, and its noise."""
    run, blocks = problem.run, problem.blocks
    moved = {term.name: float(value) for term, value in zip(terms, values, strict=True)}
    told = {**problem.defaults, **moved}
    predicted = predictions(run, problem.model(told), told.get("client_s", 0.0))
    missed, noise = [], []
    for metric in (m for m in METRICS if m in run.latencies_s):
        took = run.latencies_s[metric] > 0  # by two clocks an answer may come before its question
        ratio = np.log(np.where(took, run.latencies_s[metric], np.nan) / predicted[metric])
        for block in np.flatnonzero(blocks.fitted):
            inside = ratio[(blocks.of_request == block) & np.isfinite(ratio)]
            if len(inside) > 1:
                missed.append(float(np.mean(inside)))
                noise.append(max(float(np.std(inside) / np.sqrt(len(inside))), LEAST_NOISE))
    return np.array(missed), np.array(noise)


def _least_identified(terms: Sequence[Term], covariance: Floats) -> tuple[int, str] | None:
    """The first term that the recording does not tell, and why."""
    sds = np.sqrt(np.diag(covariance))
    shares = sds / np.array([term.prior_sd for term in terms])
    correlation = np.abs(covariance / np.outer(sds, sds)) - np.eye(len(terms))
    i = int(np.argmax(shares))
    if shares[i] > IDENTIFIED:
        j = int(np.argmax(correlation[i]))
        if len(terms) > 1 and correlation[i, j] > DEPENDENT:
            return i, f"the recording cannot tell it from {terms[j].name}"
        return i, "the recording hardly depends on it"
    if correlation.max() > DEPENDENT:
        pair = divmod(int(np.argmax(correlation)), len(terms))
        last, other = max(pair), min(pair)
        return last, f"the recording cannot tell it from {terms[other].name}"
    return None
