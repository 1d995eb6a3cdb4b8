"""One configuration of the answer as JSON: figures, what binds, or why it cannot serve. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan
from servecast.compiler.service import Slo
from servecast.simulator.metrics.flops import flops_model
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.capacity import Hopeless, Violation
from servecast.simulator.search.found import Carried, TooFewGpus
from servecast.simulator.search.market import Market
from servecast.simulator.search.run import Outcome
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.task import Demand
from servecast.simulator.traffic.workload import Workload

METRIC_NAMES = ("ttft_s", "tbt_s", "tpot_s", "e2e_s", "queue_delay_s")
FULL = 0.95
"""A resource used beyond this share is called short."""
MEASURED = ("measured", "imported", "interpolated")
"""Sources of times that measurements bear: taken as they are, or between them."""

GROUNDED = 0.5
"""Below this share of measured time a configuration rests on estimates."""

Row = dict[str, Any]  # JSON


def identity(placement: Placement, candidate: Candidate) -> Row:
    """What tells a configuration from all others."""
    degrees, limits = placement.parallelism, candidate.limits
    return {
        "sku": placement.sku.name,
        "precision": placement.precision,
        "tp": degrees.tp,
        "pp": degrees.pp,
        "ep": degrees.ep,
        "dp": degrees.dp,
        "max_num_seqs": limits.max_num_seqs,
        "max_batched_tokens": limits.max_batched_tokens,
        "policy": candidate.policy,
        "router": candidate.router,
    }


def carried_row(outcome: Outcome, carried: Carried, demand: Demand, market: Market) -> Row:
    placement, metrics = outcome.placement, carried.metrics
    gpus = market.gpus_paid(placement.sku, carried.replicas, placement.parallelism.gpus)
    usd_per_hour = gpus * placement.sku.usd_per_hour
    shares = _shares(carried.seconds_by_source)
    measured = sum(shares.get(name, 0.0) for name in MEASURED)
    return {
        **identity(placement, outcome.candidate),
        "mode": "aggregated",
        "replicas": carried.replicas,
        "gpus": gpus,
        "usd_per_hour": usd_per_hour,
        "qps": carried.rate_per_s,
        "qps_interval": None,
        "interval_sources": None,
        "tied_with_best": False,
        "qps_per_replica": carried.replica_rate_per_s,
        "qps_per_usd_hour": carried.rate_per_s / usd_per_hour,
        "usd_per_million_output_tokens": _usd_per_million(usd_per_hour, metrics),
        "watts": _watts(placement.sku, gpus, metrics.busy),
        **_asked_figures(outcome, carried, gpus, usd_per_hour),
        "metrics": metrics_json(metrics),
        "mfu": _mfu(outcome, gpus, metrics, demand.searched),
        "kv_use": {"mean": metrics.kv_use_mean, "peak": metrics.kv_use_peak},
        "mean_batch": metrics.mean_batch,
        "busy": metrics.busy,
        "preemptions": metrics.preemptions,
        "memory": _memory_json(outcome.candidate.memory),
        "binds": _binds(outcome, carried),
        "time_by_source": shares,
        "measured_share": measured,
        "grounded": measured >= GROUNDED,
    }


def _asked_figures(outcome: Outcome, carried: Carried, gpus: int, usd_per_hour: float) -> Row:
    """What only some objectives need: null for the others."""
    busy, goodput = carried.busy_at_trace_rate, carried.goodput_per_s
    sku = outcome.placement.sku
    return {
        "watts_at_trace_rate": None if busy is None else _watts(sku, gpus, busy),
        "goodput": goodput,
        "goodput_per_usd_hour": None if goodput is None else goodput / usd_per_hour,
    }


def _watts(sku: Sku, gpus: int, busy: float) -> float:
    """Of so many GPUs: idle power, and in a step the power limit, which few steps draw."""
    return gpus * (sku.power_idle_w + busy * (sku.power_peak_w - sku.power_idle_w))


def _usd_per_million(usd_per_hour: float, metrics: ReplicaMetrics) -> float:
    return usd_per_hour / (metrics.output_tokens_per_s * 3600) * 1e6


def _mfu(outcome: Outcome, gpus: int, metrics: ReplicaMetrics, workload: Workload) -> float | None:
    """Model FLOPs over the peak at the format that most of them run in; None where it has none."""
    model = flops_model(outcome.placement.sharded)
    peak = outcome.placement.sku.peak(model.format)
    if peak is None:
        return None
    flops = model.served(workload.prompt_tokens, workload.output_tokens).sum()
    return float(flops / (metrics.duration_s * peak * gpus))


def _shares(seconds: Sequence[tuple[str, float]]) -> Row:
    total_s = sum(value for _, value in seconds)
    return {source: value / total_s for source, value in seconds}


def _memory_json(plan: MemoryPlan) -> Row:
    """One GPU of the fullest stage; ``terms`` are everything but the cache."""
    return {
        "weight_bytes": plan.weight_bytes,
        "kv_blocks": plan.kv_blocks,
        "block_tokens": plan.block_tokens,
        "kv_bytes": plan.kv_blocks * plan.kv_bytes_per_block,
        "total_bytes": plan.total_bytes,
        "terms": {f"{name.lower().replace(' ', '_')}_bytes": size for name, size in plan.terms},
    }


def metrics_json(metrics: ReplicaMetrics) -> Row:
    """Percentiles by metric, with null where there is none."""
    return {name: _finite(asdict(getattr(metrics, name))) for name in METRIC_NAMES}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if isfinite(value) else None for key, value in values.items()}


def slo_text(slo: Slo) -> str:
    """As ``--slo`` takes it: ``ttft p90 < 2 s``."""
    at = "mean" if slo.percentile is None else f"p{slo.percentile:g}"
    return f"{slo.metric} {at} < {slo.limit_s:g} s"


def _binds(outcome: Outcome, carried: Carried) -> Row:
    broken = slo_text(carried.breaks[0]) if carried.breaks else None
    resource, detail = _short_resource(outcome, carried.metrics)
    return {"slo": broken, "resource": resource, "detail": detail}


def _short_resource(outcome: Outcome, metrics: ReplicaMetrics) -> tuple[str, str]:
    """The first resource that is all but used up at capacity."""
    limits = outcome.candidate.limits
    if metrics.preemptions or metrics.kv_use_peak > FULL:
        return "kv_blocks", f"KV blocks peak at {metrics.kv_use_peak:.0%}"
    if metrics.mean_batch > FULL * limits.max_num_seqs:
        return "max_num_seqs", f"{metrics.mean_batch:.0f} of {limits.max_num_seqs} sequences decode"
    if metrics.busy > FULL:
        return "gpu", f"the GPUs are busy {metrics.busy:.0%} of the time"
    return (
        "latency",
        f"the GPUs are busy {metrics.busy:.0%} on average: bursts and step times decide",
    )


def hopeless_reason(found: Hopeless) -> str:
    if found.rejected:
        return f"{found.rejected} requests of the trace are longer than its KV cache holds"
    return "even when idle: " + "; ".join(_violation_text(v) for v in found.violations)


def _violation_text(violation: Violation) -> str:
    over = violation.value_s / violation.slo.limit_s
    return f"{slo_text(violation.slo)} comes to {violation.value_s:.3g} s ({over:.2g} times the target)"


def distance(found: Hopeless) -> float:
    """How many times its target the worst figure is; infinite where requests do not fit."""
    return max((v.value_s / v.slo.limit_s for v in found.violations), default=float("inf"))


def too_few_reason(outcome: Outcome, demand: Demand, market: Market) -> str:
    found = outcome.found
    assert isinstance(found, TooFewGpus)
    replicas = "1 replica does" if found.replicas == 1 else f"{found.replicas} replicas do"
    return (
        f"{replicas} not keep the targets at {demand.trace.rate_per_s:.2f} req/s, and the limit is "
        f"{market.limit_text(outcome.placement.sku)}; one alone carries "
        f"{found.replica_rate_per_s:.2f} req/s"
    )


def slo_texts(slos: Sequence[Slo]) -> list[str]:
    return [slo_text(slo) for slo in slos]
