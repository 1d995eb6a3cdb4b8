"""One configuration of the answer as JSON: figures, what binds, or why it cannot serve. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan
from servecast.compiler.service import Slo
from servecast.estimator.tables import SOURCES, RuntimeTables, Source
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.metrics.as_json import metrics_json
from servecast.simulator.metrics.energy import power_w
from servecast.simulator.metrics.flops import mfu
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.capacity import Hopeless, Violation
from servecast.simulator.search.found import Carried, PairCarried, TooFewGpus
from servecast.simulator.search.market import Market
from servecast.simulator.search.outcome import Outcome
from servecast.simulator.search.space import AGGREGATED, Candidate, Placement
from servecast.simulator.search.task import Demand

FULL = 0.95
MOSTLY_FULL = 0.85  # on average: then sequences wait for blocks much of the time
"""A resource used beyond this share is called short."""
MEASURED = ("measured", "imported", "interpolated")
"""Sources of times that measurements bear: taken as they are, or between them."""

GROUNDED = 0.5
"""Below this share of measured time a configuration rests on estimates."""

Row = dict[str, Any]  # JSON


def identity(placement: Placement, candidate: Candidate) -> Row:
    """What tells a configuration from all others."""
    limits = candidate.limits
    return {
        "sku": placement.sku.name,
        "precision": placement.precision,
        **degrees_json(placement),
        "max_num_seqs": limits.max_num_seqs,
        "max_batched_tokens": limits.max_batched_tokens,
        "policy": candidate.policy,
        "router": candidate.router,
        "mode": AGGREGATED,
    }


def degrees_json(placement: Placement) -> Row:
    degrees = placement.parallelism
    return {"tp": degrees.tp, "pp": degrees.pp, "ep": degrees.ep, "dp": degrees.dp}


def carried_row(outcome: Outcome, carried: Carried, demand: Demand, market: Market) -> Row:
    placement, metrics = outcome.placement, carried.metrics
    gpus = market.gpus_paid(placement.sku, carried.replicas, placement.parallelism.gpus)
    at_rate = carried.utilisation_at_trace_rate
    return {
        **identity(placement, outcome.candidate),
        "replicas": carried.replicas,
        "qps_per_replica": carried.replica_rate_per_s,
        **served(carried, gpus, gpus * placement.sku.usd_per_hour, demand),
        "watts": watts(placement, carried.replicas, gpus, carried.utilisation),
        "watts_at_trace_rate": watts(placement, carried.replicas, gpus, at_rate),
        "mfu": model_flops_share(placement, [(placement.sku, gpus)], metrics.duration_s, demand),
        "memory": memory_json(outcome.candidate.memory),
        "binds": {
            "slo": first_broken(carried.breaks),
            **short_resource(outcome.candidate.limits, metrics),
        },
    }


def served(found: Carried | PairCarried, gpus: int, usd_per_hour: float, demand: Demand) -> Row:
    """The figures of a deployment at its capacity, whatever it is made of.

    A token costs what it does in the long run: the end of a trace, when batches drain, is nobody's cost.
    """
    tokens_per_s = found.rate_per_s * float(demand.searched.output_tokens.mean())
    metrics, goodput = found.metrics, found.goodput_per_s
    sources = _shares(found.seconds_by_source)
    measured = sum(sources.get(name, 0.0) for name in MEASURED)
    return {
        "gpus": gpus,
        "usd_per_hour": usd_per_hour,
        "qps": found.rate_per_s,
        "qps_interval": None,
        "qps_draws": None,
        "interval_sources": None,
        "tied_with_best": False,
        "rate_confidence": None,
        "at_confidence": None,
        "qps_per_usd_hour": found.rate_per_s / usd_per_hour,
        "usd_per_million_output_tokens": usd_per_hour / (tokens_per_s * 3600) * 1e6,
        "goodput": goodput,
        "goodput_per_usd_hour": None if goodput is None else goodput / usd_per_hour,
        "metrics": metrics_json(metrics),
        "kv_use": kv_use_json(metrics),
        "mean_batch": metrics.mean_batch,
        "busy": metrics.busy,
        "preemptions": metrics.preemptions,
        "time_by_source": sources,
        "measured_share": measured,
        "grounded": measured >= GROUNDED,
    }


def may_be_grounded(tables: RuntimeTables) -> bool:
    """Whether any run could have as much of its time from measurements: no sum of times has a larger share
    of them than the largest of its parts.
    """
    every = (
        tables.token_shares,
        tables.sequence_shares,
        tables.prefill_shares,
        tables.decode_shares,
    )
    columns = [SOURCES.index(Source(name)) for name in MEASURED]
    most = 0.0
    for shares in every:
        total = shares.sum(axis=1)
        known = total > 0
        most = max(most, (shares[known][:, columns].sum(axis=1) / total[known]).max(initial=0.0))
    return most >= GROUNDED


def kv_use_json(metrics: ReplicaMetrics) -> Row:
    return {"mean": metrics.kv_use_mean, "peak": metrics.kv_use_peak}


def watts(
    placement: Placement, replicas: int, gpus: int, utilisation: float | None
) -> float | None:
    """Mean power of the GPUs that are paid for; those that no replica has idle."""
    if utilisation is None:
        return None
    used = replicas * placement.parallelism.gpus
    return power_w(placement.sku, gpus, utilisation * used / gpus)


def model_flops_share(
    placement: Placement, placed: Sequence[tuple[Sku, int]], duration_s: float, demand: Demand
) -> float | None:
    """MFU of all GPUs under the workload that capacities are found with."""
    work = demand.searched
    return mfu(placement.sharded, placed, (work.prompt_tokens, work.output_tokens), duration_s)


def _shares(seconds: Sequence[tuple[str, float]]) -> Row:
    total_s = sum(value for _, value in seconds)
    return {source: value / total_s for source, value in seconds}


def memory_json(plan: MemoryPlan) -> Row:
    """One GPU of the fullest stage; ``terms`` are everything but the cache."""
    return {
        "weight_bytes": plan.weight_bytes,
        "kv_blocks": plan.kv_blocks,
        "block_tokens": plan.block_tokens,
        "kv_bytes": plan.kv_blocks * plan.kv_bytes_per_block,
        "total_bytes": plan.total_bytes,
        "terms": {f"{name.lower().replace(' ', '_')}_bytes": size for name, size in plan.terms},
    }


def slo_text(slo: Slo) -> str:
    """As ``--slo`` takes it: ``ttft p90 < 2 s``, ``class 1: ttft p90 < 2 s``."""
    at = "mean" if slo.percentile is None else f"p{slo.percentile:g}"
    whose = "" if slo.priority is None else f"class {slo.priority}: "
    return f"{whose}{slo.metric} {at} < {slo.limit_s:g} s"


def first_broken(breaks: Sequence[Slo]) -> str | None:
    return slo_text(breaks[0]) if breaks else None


def short_resource(limits: EngineLimits, metrics: ReplicaMetrics) -> Row:
    """The first resource that is all but used up at capacity. Blocks that were all but gone once, without a
    sequence put back for them, held nothing up where the GPUs had no time left or the batch no place.
    """
    blocks = _short("kv_blocks", f"KV blocks peak at {metrics.kv_use_peak:.0%}")
    if metrics.preemptions or metrics.kv_use_mean > MOSTLY_FULL:
        return blocks
    if metrics.mean_batch > FULL * limits.max_num_seqs:
        decode = f"{metrics.mean_batch:.0f} of {limits.max_num_seqs} sequences decode"
        return _short("max_num_seqs", decode)
    if metrics.busy > FULL:
        return _short("gpu", f"the GPUs are busy {metrics.busy:.0%} of the time")
    if metrics.kv_use_peak > FULL:
        return blocks
    busy = f"the GPUs are busy {metrics.busy:.0%} on average: bursts and step times decide"
    return _short("latency", busy)


def _short(resource: str, detail: str) -> Row:
    return {"resource": resource, "detail": detail}


def hopeless_reason(found: Hopeless) -> str:
    if found.rejected:
        return f"{found.rejected} requests of the trace are longer than its KV cache holds"
    return "even when idle: " + "; ".join(_violation_text(v) for v in found.violations)


def _violation_text(violation: Violation) -> str:
    over = violation.value_s / violation.slo.limit_s
    return f"{slo_text(violation.slo)} comes to {violation.value_s:.3g} s ({over:.2g} times the target)"


def too_few_reason(outcome: Outcome, demand: Demand, market: Market) -> str:
    found = outcome.found
    assert isinstance(found, TooFewGpus)
    replicas = "1 replica does" if found.replicas == 1 else f"{found.replicas} replicas do"
    return (
        f"{replicas} not keep the targets at {demand.trace.rate_per_s:.2f} req/s, and the limit is "
        f"{market.limit_text(outcome.placement.sku)}; {carried_text(found, demand)}"
    )


def carried_text(found: TooFewGpus, demand: Demand) -> str:
    """How far from enough: ``all carry about 8.06 req/s, 5 times too little``."""
    times = demand.trace.rate_per_s / found.rate_per_s
    short = f", {times:,.2f} times too little" if times > 1 else ", but not its bursts"
    who = "all carry" if found.replicas > 1 else "it carries"
    return f"{who} about {found.rate_per_s:.2f} req/s{short}"


def slo_texts(slos: Sequence[Slo]) -> list[str]:
    return [slo_text(slo) for slo in slos]
