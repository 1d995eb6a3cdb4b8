"""The answer as one JSON object, documented in ``docs/results.md``. Pure: outcomes in, dictionaries out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from servecast.compiler.memory import MemoryPlan
from servecast.compiler.service import Slo
from servecast.simulator.flops import flops_model
from servecast.simulator.metrics import ReplicaMetrics
from servecast.simulator.search.capacity import Hopeless, Violation
from servecast.simulator.search.confidence import CONTENDER, MAX_CONTENDERS, Confidence
from servecast.simulator.search.run import Outcome
from servecast.simulator.search.space import Infeasible
from servecast.simulator.search.worker import Carried, Demand, TooFewGpus
from servecast.simulator.workload import Workload

SCHEMA_VERSION = 1
METRIC_NAMES = ("ttft_s", "tbt_s", "tpot_s", "e2e_s", "queue_delay_s")
FULL = 0.95
"""A resource used beyond this share is called short."""

Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class Ranking:
    """``outcomes`` are those behind the rows of ``ranked``, in the same order."""

    ranked: tuple[Row, ...]
    infeasible: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def contenders(self) -> tuple[Outcome, ...]:
        """The first ones: near enough to the best to ask whether they can be told from it."""
        near = [
            outcome
            for row, outcome in zip(self.ranked, self.outcomes, strict=True)
            if row["qps_per_usd_hour"] >= CONTENDER * self.ranked[0]["qps_per_usd_hour"]
        ]
        return tuple(near[:MAX_CONTENDERS])

    def with_confidence(self, found: Sequence[Confidence]) -> Ranking:
        """The contenders' intervals and ties; the others are behind and have no interval."""
        rows = [
            {**row, "qps_interval": list(each.interval), "tied_with_best": each.tied}
            for row, each in zip(self.ranked, found, strict=False)
        ]
        rest = [
            {**row, "qps_interval": None, "tied_with_best": False}
            for row in self.ranked[len(rows) :]
        ]
        return replace(self, ranked=(*rows, *rest))


def rank(outcomes: Iterable[Outcome], refused: Iterable[Infeasible], demand: Demand) -> Ranking:
    """Most requests per dollar first; equal ones by fewer GPUs, then by name, so that order is total."""
    ranked: list[tuple[Row, Outcome]] = []
    infeasible = [asdict(miss) for miss in refused]
    for outcome in outcomes:
        if isinstance(outcome.found, Hopeless):
            infeasible.append({**_identity(outcome), "reason": _hopeless_reason(outcome.found)})
            continue
        if isinstance(outcome.found, TooFewGpus):
            infeasible.append({**_identity(outcome), "reason": _too_few(outcome.found, demand)})
            continue
        row = _row(outcome, outcome.found, demand)
        ranked.append((row, outcome))
    ranked.sort(key=lambda pair: _rank_key(pair[0]))
    infeasible.sort(key=_name)
    rows, behind = tuple(row for row, _ in ranked), tuple(outcome for _, outcome in ranked)
    return Ranking(rows, tuple(infeasible), behind)


def _rank_key(row: Row) -> tuple[Any, ...]:
    return (-row["qps_per_usd_hour"], row["gpus"], *_name(row))


def _name(row: Row) -> tuple[Any, ...]:
    batch = (row["max_num_seqs"] or 0, row["max_batched_tokens"] or 0)
    return (row["sku"], row["tp"], row["pp"], *batch)


def _identity(outcome: Outcome) -> Row:
    parallelism = outcome.placement.parallelism
    limits = outcome.candidate.limits
    return {
        "sku": outcome.placement.sku.name,
        "tp": parallelism.tp,
        "pp": parallelism.pp,
        "max_num_seqs": limits.max_num_seqs,
        "max_batched_tokens": limits.max_batched_tokens,
    }


def _too_few(found: TooFewGpus, demand: Demand) -> str:
    replicas = "1 replica does" if found.replicas == 1 else f"{found.replicas} replicas do"
    return (
        f"{replicas} not keep the targets at {demand.trace.rate_per_s:.2f} req/s, and the limit is "
        f"{demand.max_gpus} GPUs; one alone carries {found.replica_rate_per_s:.2f} req/s"
    )


def _row(outcome: Outcome, carried: Carried, demand: Demand) -> Row:
    gpus = carried.replicas * outcome.placement.parallelism.gpus
    usd_per_hour = gpus * outcome.placement.sku.usd_per_hour
    metrics = carried.metrics
    return {
        **_identity(outcome),
        "policy": outcome.candidate.policy,
        "replicas": carried.replicas,
        "gpus": gpus,
        "usd_per_hour": usd_per_hour,
        "qps": carried.rate_per_s,
        "qps_per_replica": carried.replica_rate_per_s,
        "qps_per_usd_hour": carried.rate_per_s / usd_per_hour,
        "usd_per_million_output_tokens": _usd_per_million(usd_per_hour, metrics),
        "metrics": metrics_json(metrics),
        "mfu": _mfu(outcome, gpus, metrics, demand.searched),
        "kv_use": {"mean": metrics.kv_use_mean, "peak": metrics.kv_use_peak},
        "mean_batch": metrics.mean_batch,
        "busy": metrics.busy,
        "preemptions": metrics.preemptions,
        "memory": _memory_json(outcome.candidate.memory),
        "binds": _binds(outcome, carried),
        "time_by_source": _shares(carried.seconds_by_source),
    }


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


def _hopeless_reason(found: Hopeless) -> str:
    if found.rejected:
        return f"{found.rejected} requests of the trace are longer than its KV cache holds"
    return "even when idle: " + "; ".join(_violation_text(v) for v in found.violations)


def _violation_text(violation: Violation) -> str:
    over = violation.value_s / violation.slo.limit_s
    return f"{slo_text(violation.slo)} comes to {violation.value_s:.3g} s ({over:.2g} times the target)"


def assemble(
    ranking: Ranking,
    *,
    best_at_trace_rate: ReplicaMetrics | None,
    workload: Row,
    question: Row,
    provenance: Row,
    elapsed_s: float,
) -> Row:
    """The object of ``docs/results.md``."""
    best: Row | None = None
    if ranking.ranked and best_at_trace_rate is not None:
        best = {**ranking.ranked[0], "at_trace_rate": {"metrics": metrics_json(best_at_trace_rate)}}
    return {
        "schema_version": SCHEMA_VERSION,
        "best": best,
        "ranked": list(ranking.ranked),
        "infeasible": list(ranking.infeasible),
        "workload": workload,
        "question": question,
        "provenance": provenance,
        "elapsed_s": elapsed_s,
    }


def slo_texts(slos: Sequence[Slo]) -> list[str]:
    return [slo_text(slo) for slo in slos]
