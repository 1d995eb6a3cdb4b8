"""What a run with prefill and decode apart came to, as the keys of ``docs/simulate.md``. Pure."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.engine.records import Records
from servecast.simulator.metrics.as_json import finite, metrics_json, plain
from servecast.simulator.metrics.disaggregated import pool_metrics, pool_samples, summarise_pools
from servecast.simulator.metrics.energy import JOULES_PER_KWH, energy
from servecast.simulator.metrics.flops import mfu
from servecast.simulator.metrics.metrics import ReplicaMetrics, distribution, distribution_of
from servecast.simulator.metrics.outcome import (
    MAX_NAMED,
    Deployed,
    goodput,
    hit_rate,
    rejection,
    requests_json,
)
from servecast.simulator.metrics.usage import bubbles, computed_s, mbu
from servecast.simulator.traffic.workload import Workload

Row = dict[str, Any]  # JSON
Pair = tuple[Deployed, Deployed]


def outcome_pools(deployed: Pair, workload: Workload, run: DisaggregatedRun) -> Row:
    """Batches and cache are in ``pools``, a part for each role; prefill first, as in ``deployed``."""
    metrics = summarise_pools(run)
    pools = _pools(deployed, run, metrics.duration_s)
    return {
        "requests": requests_json(metrics),
        "rejected": _rejected(deployed, workload, run),
        "metrics": {
            **metrics_json(metrics),
            "normalised_latency_s": _spread(run, "normalised_latency"),
        },
        "duration_s": finite(metrics.duration_s),
        "requests_per_s": finite(metrics.requests_per_s),
        "output_tokens_per_s": finite(metrics.output_tokens_per_s),
        "usd_per_million_output_tokens": _usd_per_million(deployed, metrics),
        "goodput": goodput(deployed[0].targets, workload, run, metrics),
        "transfer_s": _transfer(run),
        "preemptions": metrics.preemptions,
        "stable": metrics.stable,
        "busy": finite(metrics.busy),
        "mfu": _mfu(deployed, run, metrics.duration_s),
        "energy": _energy(deployed, run, pools),
        "pools": pools,
    }


def _spread(run: DisaggregatedRun, metric: str) -> Row:
    return plain(asdict(distribution_of(pool_samples(run, metric))))


def _transfer(run: DisaggregatedRun) -> Row:
    """Seconds that a request's KV was in the link and its queue, of those that were sent."""
    sent_s = np.sort(run.transfer_s[~np.isnan(run.transfer_s)])
    if not len(sent_s):
        return dict.fromkeys(("p50", "p99", "mean", "max"))
    p50, p99 = np.percentile(sent_s, (50, 99), method="inverted_cdf")
    highest, mean = float(sent_s[-1]), float(sent_s.mean())
    return {"p50": float(p50), "p99": float(p99), "mean": mean, "max": highest}


def _usd_per_million(deployed: Pair, metrics: ReplicaMetrics) -> float | None:
    usd_per_s = sum(pool.gpus * pool.sku.usd_per_hour for pool in deployed) / 3600
    per_s = metrics.output_tokens_per_s
    return finite(usd_per_s / per_s * 1e6) if per_s else None


def _rejected(deployed: Pair, workload: Workload, run: DisaggregatedRun) -> list[Row]:
    """The first requests that were not served, and where and why not."""
    rows = []
    place_of = {int(i): place for place, i in enumerate(run.decoded)}
    for i in run.rejected.nonzero()[0][:MAX_NAMED].tolist():
        prompt, output = int(workload.prompt_tokens[i]), int(workload.output_tokens[i])
        if run.prefill.rejected[i]:
            role, gone = "prefill", int(run.prefill.requests["gone"][i])
            row = rejection(prompt, gone, deployed[0].limits)
        else:
            assert run.decode is not None
            role, gone = "decode", int(run.decode.requests["gone"][place_of[i]])
            row = rejection(prompt + output - 1, gone, deployed[1].limits)
        rows.append({"request": workload.where(i), "pool": role, **row})
    return rows


def _pools(deployed: Pair, run: DisaggregatedRun, duration_s: float) -> Row:
    first, second = pool_metrics(run, duration_s)
    pools = {"prefill": _pool(deployed[0], run.prefill, first, duration_s)}
    if run.decode is None or second is None:
        return {**pools, "decode": None}
    return {**pools, "decode": _pool(deployed[1], run.decode, second, duration_s)}


def _pool(deployed: Deployed, records: Records, metrics: ReplicaMetrics, duration_s: float) -> Row:
    """Of one role: null what there is none of without a step, or without a request that finished."""
    row: Row = {
        "queue_delay_s": plain(asdict(distribution(records, "queue_delay"))),
        "steps": len(records.steps),
        "mean_batch": finite(metrics.mean_batch),
        "mean_tokens": finite(metrics.mean_tokens),
        "kv_use": {"mean": finite(metrics.kv_use_mean), "peak": finite(metrics.kv_use_peak)},
        "prefix_hit_rate": hit_rate(records),
        "preemptions": metrics.preemptions,
        "stable": metrics.stable,
        "busy": finite(metrics.busy),
    }
    if not len(records.steps) or not isfinite(duration_s):
        return row | dict.fromkeys(("bubbles", "mbu", "energy"))
    busy_s = metrics.busy * duration_s
    used = energy(deployed.sharded, deployed.sku, records, duration_s)
    return row | {
        "bubbles": bubbles(records, busy_s, computed_s(deployed.tables, records)),
        "mbu": mbu(deployed.sharded, deployed.sku, records, duration_s),
        "energy": None
        if used is None
        else {"joules": used.joules, "mean_power_w": used.joules / duration_s},
    }


def _energy(deployed: Pair, run: DisaggregatedRun, pools: Row) -> Row | None:
    """Of both roles' GPUs; null where one of them has none."""
    parts = [pool and pool["energy"] for pool in pools.values()]
    if None in parts:
        return None
    joules = sum(part["joules"] for part in parts)
    intensity = deployed[0].carbon_g_per_kwh
    tokens = int(run.output_tokens[np.isfinite(run.finish_s)].sum())
    return {
        "joules": joules,
        "joules_per_output_token": joules / tokens,
        "mean_power_w": sum(part["mean_power_w"] for part in parts),
        "carbon_g": None if intensity is None else joules / JOULES_PER_KWH * intensity,
    }


def _mfu(deployed: Pair, run: DisaggregatedRun, duration_s: float) -> float | None:
    """Of all GPUs of both roles."""
    if not duration_s > 0:
        return None
    done = np.isfinite(run.finish_s)
    served = run.prefill.prompt_tokens[done], run.output_tokens[done]
    placed = [(pool.sku, pool.gpus) for pool in deployed]
    return mfu(deployed[0].sharded, placed, served, duration_s)
