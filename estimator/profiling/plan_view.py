"""What `servecast profile --dry-run` prints: the plan, and how long a GPU will be busy with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.suggest import did_you_mean
from servecast.estimator.profiling.collect import first_nodes
from servecast.estimator.profiling.device_time import DeviceTime, device_time
from servecast.estimator.profiling.preview import SkuPlan, preview, preview_alone
from servecast.estimator.profiling.workers import Job
from servecast.estimator.store import Store

Timed = tuple[SkuPlan, DeviceTime]


def plans_of(store_path: Path, job: Job, skus: Mapping[str, Sku], sku: str | None) -> list[Timed]:
    """For the GPUs of the agents, or for ``sku`` where there is none.

    Raises:
        UserError: neither an agent nor a SKU is given, or nobody declares the SKU.
    """
    if sku is not None and sku not in skus:
        raise UserError(f"--sku {sku}: no such SKU is declared{did_you_mean(sku, skus)}")
    if sku is None and not job.addresses:
        raise UserError("--dry-run wants an agent (--agent HOST:PORT) or a GPU (--sku NAME)")
    nodes = list(first_nodes(job).values()) if job.addresses else []
    where, read_only = (store_path, True) if store_path.exists() else (":memory:", False)
    with Store.open(where, read_only=read_only) as store:
        plans = preview(store, nodes, job)
        plans += [preview_alone(store, sku, job)] if sku is not None else []
    return [(p, device_time(p.missing, skus.get(p.sku), job.settings)) for p in plans]


def json_text(plans: Sequence[Timed]) -> str:
    lines = [asdict(line) for plan, _ in plans for line in plan.lines]
    return json.dumps({"plan": lines, "device_time": {p.sku: asdict(time) for p, time in plans}})


def as_text(plans: Sequence[Timed]) -> str:
    columns = ("planned", "present", "missing", "unsupported")
    lines = [f"{'SKU':<16}{'kernel':<26}" + "".join(name.rjust(len(name) + 1) for name in columns)]
    for plan, _ in plans:
        for line in plan.lines:
            told = asdict(line)
            counts = "".join(str(told[name]).rjust(len(name) + 1) for name in columns)
            lines.append(f"{line.sku:<16}{line.kernel:<26}{counts}")
    lines += [
        f"{plan.sku}: {len(plan.missing)} cases to measure, {time.least_s / 60:.1f} to "
        f"{time.most_s / 60:.1f} minutes of one GPU"
        for plan, time in plans
    ]
    return "\n".join(lines)
