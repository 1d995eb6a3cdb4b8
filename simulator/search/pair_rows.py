"""A configuration with prefill and decode apart as JSON: one row, with a part for each role. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servecast.simulator.search.found import PairCarried, Pool, TooFewGpus
from servecast.simulator.search.market import Market
from servecast.simulator.search.outcome import PairOutcome
from servecast.simulator.search.pairs import Pairing
from servecast.simulator.search.rows import (
    Row,
    carried_text,
    degrees_json,
    first_broken,
    kv_use_json,
    memory_json,
    model_flops_share,
    served,
    short_resource,
    watts,
)
from servecast.simulator.search.space import DISAGGREGATED, Candidate, Placement
from servecast.simulator.search.task import Demand


def pair_identity(pairing: Pairing) -> Row:
    """What tells a pairing from all others; its limits are found, those of its decode role say None."""
    return {
        "sku": " + ".join(dict.fromkeys((pairing.prefill.sku.name, pairing.decode.sku.name))),
        "precision": pairing.precision,
        **degrees_json(pairing.decode),
        "max_num_seqs": None,
        "max_batched_tokens": None,
        "policy": pairing.policy,
        "router": pairing.router,
        "mode": DISAGGREGATED,
        "prefill": _place(pairing.prefill),
        "decode": _place(pairing.decode),
    }


def _place(placement: Placement) -> Row:
    return {"sku": placement.sku.name, **degrees_json(placement)}


def pair_row(outcome: PairOutcome, found: PairCarried, demand: Demand, market: Market) -> Row:
    """Where one figure is asked for and each role has its own, it is the decode role's."""
    parts = [
        _part(placement, candidate, pool, market)
        for placement, candidate, pool in zip(
            outcome.placements, outcome.candidates, (found.prefill, found.decode), strict=True
        )
    ]
    prefill, decode = parts
    gpus, usd_per_hour = (sum(part[name] for part in parts) for name in ("gpus", "usd_per_hour"))
    replicas = found.prefill.replicas + found.decode.replicas
    placed = [(p.sku, part["gpus"]) for p, part in zip(outcome.placements, parts, strict=True)]
    return {
        **pair_identity(outcome.pairing),
        **{name: decode[name] for name in ("max_num_seqs", "max_batched_tokens", "memory")},
        "replicas": replicas,
        "qps_per_replica": found.rate_per_s / replicas,
        **served(found, gpus, usd_per_hour, demand),
        "busy": sum(part["busy"] * part["gpus"] for part in parts) / gpus,
        **{name: _sum(parts, name) for name in ("watts", "watts_at_trace_rate")},
        "mfu": model_flops_share(outcome.pairing.decode, placed, found.metrics.duration_s, demand),
        "binds": _binds(outcome, found),
        "prefill": prefill,
        "decode": decode,
    }


def _part(placement: Placement, candidate: Candidate, pool: Pool, market: Market) -> Row:
    gpus = market.gpus_paid(placement.sku, pool.replicas, placement.parallelism.gpus)
    metrics = pool.metrics
    return {
        **_place(placement),
        "precision": placement.precision,
        "max_num_seqs": candidate.limits.max_num_seqs,
        "max_batched_tokens": candidate.limits.max_batched_tokens,
        "policy": candidate.policy,
        "router": candidate.router,
        "replicas": pool.replicas,
        "gpus": gpus,
        "usd_per_hour": gpus * placement.sku.usd_per_hour,
        "qps_per_replica": pool.replica_rate_per_s,
        "busy": metrics.busy,
        "mean_batch": metrics.mean_batch,
        "kv_use": kv_use_json(metrics),
        "preemptions": metrics.preemptions,
        "memory": memory_json(candidate.memory),
        "watts": watts(placement, pool.replicas, gpus, pool.utilisation),
        "watts_at_trace_rate": watts(
            placement, pool.replicas, gpus, pool.utilisation_at_trace_rate
        ),
    }


def _sum(parts: Sequence[Row], name: str) -> float | None:
    """Null where a role has none."""
    values = [part[name] for part in parts]
    return None if None in values else sum(values)


def _binds(outcome: PairOutcome, found: PairCarried) -> Row:
    """What is short in the role whose target breaks first; the queue's is that of the longer one."""
    longer = found.prefill.metrics.queue_delay_s.p99 > found.decode.metrics.queue_delay_s.p99
    metric = found.breaks[0].metric if found.breaks else ""
    prefill = metric == "ttft" or (metric == "queue_delay" and longer)
    role, pool = ("prefill", found.prefill) if prefill else ("decode", found.decode)
    short: dict[str, Any] = short_resource(outcome.candidates[not prefill].limits, pool.metrics)
    short["detail"] = f"of the {role} replicas: {short['detail']}"
    return {"slo": first_broken(found.breaks), "role": role, **short}


def pair_too_few_reason(outcome: PairOutcome, demand: Demand, market: Market) -> str:
    found = outcome.found
    assert isinstance(found, TooFewGpus)
    names = dict.fromkeys(placement.sku.name for placement in outcome.placements)
    limits = {market.limit_text(p.sku) for p in outcome.placements}
    return (
        f"no numbers of prefill and decode replicas keep the targets at "
        f"{demand.trace.rate_per_s:.2f} req/s, and the limit is {', '.join(sorted(limits))} "
        f"({', '.join(names)}); {carried_text(found, demand)}"
    )
