"""The question asked: latency targets and the configurations to search."""

from __future__ import annotations

from dataclasses import dataclass

METRICS = ("ttft", "tbt", "tpot", "e2e", "queue_delay")


@dataclass(frozen=True, slots=True)
class Slo:
    """``metric`` at ``percentile`` (None: the mean) stays under ``limit_s``.

    It binds the requests of one ``priority``, or all of a class without a target of the metric of its own.
    """

    metric: str
    percentile: float | None
    limit_s: float
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """Empty tuples and None mean: not said here, take the default."""

    name: str
    slos: tuple[Slo, ...] = ()
    skus: tuple[str, ...] = ()
    max_gpus: int | None = None
    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    max_num_seqs: tuple[int, ...] = ()
    max_batched_tokens: tuple[int, ...] = ()
    policies: tuple[str, ...] = ()
    ep: tuple[int, ...] = ()
    dp: tuple[int, ...] = ()
    routers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    objective: str | None = None
    modes: tuple[str, ...] = ()
    prefill_skus: tuple[str, ...] = ()
    decode_skus: tuple[str, ...] = ()
    price_kind: str | None = None
