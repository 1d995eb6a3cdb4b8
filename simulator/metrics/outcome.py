"""What a simulated run came to, as the keys of ``docs/simulate.md``. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.patience import LEFT, LOST, SESSION_ENDED
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.state import GAVE_UP, TURNED_AWAY
from servecast.simulator.metrics.as_json import finite, metrics_json, plain
from servecast.simulator.metrics.attained import NO_TARGETS, Run, Targets, in_time
from servecast.simulator.metrics.energy import energy
from servecast.simulator.metrics.flops import mfu
from servecast.simulator.metrics.metrics import ReplicaMetrics, distribution, summarise
from servecast.simulator.metrics.steady import steady_state
from servecast.simulator.metrics.usage import bubbles, computed_s, mbu
from servecast.simulator.traffic.workload import Workload

MAX_NAMED = 20
"""Rejected requests that the summary names; the requests table has all of them."""

MODES_REASONS = {
    LEFT: "was cancelled by its client",
    LOST: "was on a replica that was lost",
    SESSION_ENDED: "follows a turn that was not answered",
}

Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class Deployed:
    """What ran, for the figures that depend on it. ``gpus``: of all replicas."""

    sharded: ShardedProgram
    tables: RuntimeTables
    sku: Sku
    limits: EngineLimits
    gpus: int
    targets: Targets = NO_TARGETS
    carbon_g_per_kwh: float | None = None


def outcome(deployed: Deployed, workload: Workload, records: Records) -> Row:
    metrics = summarise(records)
    return {
        "requests": requests_json(metrics),
        "rejected": _rejected(workload, records, deployed.limits),
        "metrics": {
            **metrics_json(metrics),
            "normalised_latency_s": plain(asdict(distribution(records, "normalised_latency"))),
        },
        "duration_s": finite(metrics.duration_s),
        "requests_per_s": finite(metrics.requests_per_s),
        "output_tokens_per_s": finite(metrics.output_tokens_per_s),
        "usd_per_million_output_tokens": _usd_per_million(deployed, metrics, records),
        "goodput": goodput(deployed.targets, workload, records, metrics),
        "steady_state": _steady(records),
        "steps": len(records.steps),
        "mean_batch": finite(metrics.mean_batch),
        "mean_tokens": finite(metrics.mean_tokens),
        "kv_use": {"mean": finite(metrics.kv_use_mean), "peak": finite(metrics.kv_use_peak)},
        "prefix_hit_rate": hit_rate(records),
        "preemptions": metrics.preemptions,
        "restarted": int((records.preemptions > 0).sum()),
        "stable": metrics.stable,
        **_use(deployed, records, metrics),
    }


def _use(deployed: Deployed, records: Records, metrics: ReplicaMetrics) -> Row:
    """What the GPUs did: null where no request finished, or the GPU's peak is not known."""
    duration_s = metrics.duration_s
    if not isfinite(duration_s) or duration_s == 0:
        return dict.fromkeys(("busy", "bubbles", "mfu", "mbu", "energy"))
    busy_s = metrics.busy * duration_s
    return {
        "busy": metrics.busy,
        "bubbles": bubbles(records, busy_s, computed_s(deployed.tables, records)),
        "mfu": _mfu(deployed, records, duration_s),
        "mbu": mbu(deployed.sharded, deployed.sku, records, duration_s),
        "energy": _energy(deployed, records, duration_s),
    }


def _energy(deployed: Deployed, records: Records, duration_s: float) -> Row | None:
    used = energy(deployed.sharded, deployed.sku, records, duration_s)
    if used is None:
        return None
    tokens = int(records.output_tokens[records.finished].sum())
    intensity = deployed.carbon_g_per_kwh
    return {
        "joules": used.joules,
        "joules_per_output_token": used.joules / tokens,
        "mean_power_w": used.joules / duration_s,
        "carbon_g": None if intensity is None else used.carbon_g(intensity),
    }


def requests_json(metrics: ReplicaMetrics) -> Row:
    """What became of those that arrived."""
    served = {
        "finished": metrics.num_finished,
        "rejected": metrics.num_rejected,
        "unfinished": metrics.num_unfinished,
    }
    return {"arrived": sum(served.values()), **served}


def goodput(
    targets: Targets, workload: Workload, records: Run, metrics: ReplicaMetrics
) -> Row | None:
    """Requests that keep every limit by themselves; those rejected do not. None: no limits were given."""
    if not targets:
        return None
    share = float(in_time(records, targets, workload).mean())
    arrived = metrics.num_finished + metrics.num_rejected + metrics.num_unfinished
    return {
        "attained": share,
        "requests_per_s": finite(share * arrived / metrics.duration_s),
    }


def _steady(records: Records) -> Row | None:
    window = steady_state(records)
    if window is None:
        return None
    inside = summarise(records, window)
    return {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "requests_per_s": inside.num_finished / (window.end_s - window.start_s),
        "metrics": metrics_json(inside),
    }


def hit_rate(records: Records) -> float | None:
    """Of the tokens of the prompts that were served; None: there was no prefix cache."""
    if records.prefix_hit_tokens is None:
        return None
    served = ~records.rejected
    tokens = int(records.prompt_tokens[served].sum())
    return float(records.prefix_hit_tokens[served].sum()) / tokens if tokens else None


def _rejected(workload: Workload, records: Records, limits: EngineLimits) -> list[Row]:
    """The first requests that were not served, by name, and why."""
    named = records.rejected.nonzero()[0][:MAX_NAMED].tolist()
    kv_tokens = workload.prompt_tokens + workload.output_tokens - 1
    gone = records.requests["gone"]
    return [
        {"request": workload.where(i), **rejection(int(kv_tokens[i]), int(gone[i]), limits)}
        for i in named
    ]


def rejection(kv_tokens: int, gone: int, limits: EngineLimits) -> Row:
    """The blocks that a request needed, and why it was not served."""
    blocks = -(-kv_tokens // limits.block_tokens)
    return {"kv_blocks": blocks, "reason": _reason(gone, blocks, limits)}


def _reason(gone: int, kv_blocks: int, limits: EngineLimits) -> str:
    if gone == TURNED_AWAY:
        return f"found {limits.max_queue or 'too many'} requests waiting"
    if gone in MODES_REASONS:
        return MODES_REASONS[gone]
    if gone == GAVE_UP:
        return f"gave up after {limits.queue_timeout_s} s in the queue"
    if kv_blocks > limits.kv_blocks:
        return f"needs more than the {limits.kv_blocks} KV blocks there are"
    return (
        f"is more than the policy ever puts into {limits.max_batched_tokens} tokens a step "
        f"and {limits.kv_blocks} KV blocks"
    )


def _usd_per_million(deployed: Deployed, metrics: ReplicaMetrics, records: Records) -> float | None:
    """Of all GPUs for the duration; of an autoscaled fleet, for as long as each replica was paid."""
    usd_per_s = deployed.gpus * deployed.sku.usd_per_hour / 3600
    if "scaling" in records.modes:
        paid_s = records.modes["scaling"]["replica_hours"] * 3600
        usd_per_s *= paid_s / (records.replicas * metrics.duration_s)
    per_s = metrics.output_tokens_per_s
    return finite(usd_per_s / per_s * 1e6) if per_s else None


def _mfu(deployed: Deployed, records: Records, duration_s: float) -> float | None:
    done = records.finished
    served = records.prompt_tokens[done], records.output_tokens[done]
    return mfu(deployed.sharded, [(deployed.sku, deployed.gpus)], served, duration_s)
