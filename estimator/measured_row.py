"""An agent's outcome as a row of the store."""

from __future__ import annotations

import json
from dataclasses import asdict

from servecast.agent.messages import Node, Outcome, Status
from servecast.agent.stopping import Statistics
from servecast.estimator.measurement import Measurement, Origin, Timing
from servecast.estimator.profiling.workers import Result

US_PER_S = 1e6
USUAL_LIBRARIES = ("", "torch", "gloo", "nccl")  # rows of others are variants


def row_of(result: Result) -> Measurement:
    """A measured or out-of-memory outcome with the whole of what the node told about itself."""
    node, outcome = result.node, result.outcome
    statistics, library = outcome.statistics, outcome.library
    return Measurement(
        case=result.case,
        sku=node.sku,
        origin=Origin("agent", package="servecast", version=node.agent_version),
        timing=_timing(statistics) if statistics is not None else None,
        outcome=outcome.status.value,
        method=outcome.method,
        variant=result.variant or ("" if library in USUAL_LIBRARIES else library),
        flags=tuple(flag.value for flag in outcome.flags),
        node=_json(_fingerprint(node, result.device)),
        conditions=_json(_conditions(outcome) | _samples(result)),
        measured_at_ns=result.measured_at_ns,
    )


def _samples(result: Result) -> dict[str, object]:
    return {"samples_us": result.samples_us} if result.samples_us else {}


def _timing(statistics: Statistics) -> Timing:
    return Timing(
        mean_s=statistics.mean_us / US_PER_S,
        num_samples=statistics.n,
        std_s=statistics.std_us / US_PER_S,
        min_s=statistics.min_us / US_PER_S,
        median_s=statistics.median_us / US_PER_S,
        p90_s=statistics.p90_us / US_PER_S,
    )


def _fingerprint(node: Node, device: int) -> dict[str, object]:
    """What makes two measurements comparable: the very device, its limits, and every library's version."""
    return {
        "hostname": node.hostname,
        "backend": node.backend,
        "device": asdict(node.devices[device]),
        "links": [asdict(link) for link in node.links],
        "versions": dict(node.versions),
        "threads": node.threads,
    }


def _conditions(outcome: Outcome) -> dict[str, object]:
    told = asdict(outcome)
    if outcome.status is not Status.MEASURED:
        return {"message": outcome.message}
    names = ("stop_reason", "launches_per_sample", "rotated_buffers", "host_launch_us", "energy_j")
    found = {name: told[name] for name in (*names, "before", "after")}
    return found | ({"message": outcome.message} if outcome.message else {})


def _json(value: object) -> str:
    """Canonical, so that equal values are equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
