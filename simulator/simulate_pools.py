"""Prefill and decode on replicas of their own under one workload, simulated once. Touches no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.estimator.load import TableLoader
from servecast.simulator.engine.disaggregation import (
    Disaggregated,
    DisaggregatedRun,
    KvLink,
    run_disaggregated,
)
from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import Targets
from servecast.simulator.metrics.outcome import Deployed
from servecast.simulator.metrics.outcome_pools import outcome_pools
from servecast.simulator.search.pairs import kv_link
from servecast.simulator.search.serving import pools, seconds_by_source
from servecast.simulator.search.space import Placement
from servecast.simulator.search.table_bounds import bounds
from servecast.simulator.simulate import (
    SCHEMA_VERSION,
    Setup,
    configuration_json,
    deployed,
    operators_json,
    place,
)
from servecast.simulator.traffic.summary import describe
from servecast.simulator.traffic.workload import Workload

Row = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class AskedLink:
    """Of the `KvLink` what was said; ``bytes_per_s`` None: the network of the slower role's GPUs."""

    bytes_per_s: float | None = None
    latency_s: float = 0.0
    layers: int = 1
    shared: bool = False


@dataclass(frozen=True, slots=True)
class PoolsSetup:
    """A setup for each role, of one model. Targets and the grid's intensity are the prefill role's; what
    waiting clients bear holds for its queue alone.

    Raises:
        UserError: a setting that both roles cannot have.
    """

    prefill: Setup
    decode: Setup
    link: AskedLink = AskedLink()

    def __post_init__(self) -> None:
        if self.prefill.program != self.decode.program:
            raise UserError("prefill and decode apart: both roles must serve one model")
        for setup in (self.prefill, self.decode):
            if setup.modes.names:
                raise UserError(
                    f"mode disaggregated with {', '.join(setup.modes.names)}: "
                    "these are modes of replicas that prefill and decode"
                )
        if self.decode.prefix_caching:
            raise UserError(
                "mode disaggregated with prefix_caching of the decode role: "
                "its replicas keep no prefixes, each prompt's KV is sent whole"
            )
        if not parse_policy(self.decode.policy).is_compiled:
            raise UserError(
                f"mode disaggregated with policy {self.decode.policy!r}: decode replicas take KV that "
                "others computed, which orders of service do, in vLLM v1's batches"
            )


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedPools:
    """``summary`` is the object of ``docs/simulate.md`` without the provenance of its reading."""

    workload: Workload
    run: DisaggregatedRun
    summary: Row


def simulate_pools(
    setup: PoolsSetup, skus: Mapping[str, Sku], workload: Workload, loader: TableLoader
) -> SimulatedPools:
    """
    Raises:
        InfeasibleError: the model does not fit a role's replica.
        UserError: an unknown SKU, router or policy, or limits that contradict each other.
    """
    roles = (setup.prefill, setup.decode)
    Targets(setup.prefill.slos, setup.prefill.class_slos).check(workload)
    placements = [place(role, skus, workload.mean_sequence_tokens) for role in roles]
    loader.expect_lengths(workload.prompt_tokens, workload.output_tokens)
    limits = placements[0].candidates[0].limits
    shares = limits.caches_prefixes_of(workload.prefix is not None)
    fleets = [
        _fleet(role, placement, loader, caching)
        for role, placement, caching in zip(roles, placements, (shares, False), strict=True)
    ]
    link = link_of(setup, *placements)
    serving = Disaggregated(fleets[0], fleets[1], link)
    run = run_disaggregated(Engine(), workload, serving)
    seconds = dict(seconds_by_source(serving, run))
    total_s = sum(seconds.values())
    summary = {
        "schema_version": SCHEMA_VERSION,
        "configuration": _configuration(setup, placements, link),
        "workload": asdict(describe(workload)),
        **outcome_pools(_deployed(roles, placements, fleets), workload, run),
        "modes": {},
        "operators": _operators(setup, placements, loader, (serving, run)),
        "time_by_source": {name: s / total_s for name, s in seconds.items()} if total_s else {},
        "provenance": _provenance(placements, loader, shares),
    }
    return SimulatedPools(workload, run, summary)


def link_of(setup: PoolsSetup, prefill: Placement, decode: Placement) -> KvLink:
    """The network's, where nothing else was said."""
    asked = setup.link
    link = kv_link(setup.prefill.program, prefill, decode)
    return replace(
        link,
        bytes_per_s=link.bytes_per_s if asked.bytes_per_s is None else asked.bytes_per_s,
        latency_s=asked.latency_s,
        layers=asked.layers,
        shared=asked.shared,
    )


def _fleet(setup: Setup, placement: Placement, loader: TableLoader, caching: bool) -> Fleet:
    tables = loader.tables(placement.sharded, placement.sku, bounds(placement))
    limits = replace(placement.candidates[0].limits, prefix_caching=caching)
    return Fleet(tables, limits, setup.replicas * setup.dp, setup.router, setup.policy)


def _operators(
    setup: PoolsSetup,
    placements: list[Placement],
    loader: TableLoader,
    ran: tuple[Disaggregated, DisaggregatedRun],
) -> list[Row] | None:
    """Of both roles, in the order of both; None: nobody asked."""
    if not setup.prefill.operators:
        return None
    sides = zip(("prefill", "decode"), placements, pools(*ran), strict=False)
    rows = [
        {"pool": role, **row}
        for role, placement, (fleet, records) in sides
        for row in operators_json(setup.prefill, placement, loader, (fleet.tables, records)) or ()
    ]
    return sorted(rows, key=lambda row: -float(row["time_s"]))


def _deployed(
    roles: tuple[Setup, Setup], placements: list[Placement], fleets: list[Fleet]
) -> tuple[Deployed, Deployed]:
    prefill, decode = (
        deployed(
            replace(role, slos=roles[0].slos, class_slos=roles[0].class_slos),
            placement,
            fleet.tables,
        )
        for role, placement, fleet in zip(roles, placements, fleets, strict=True)
    )
    return prefill, decode


def _configuration(setup: PoolsSetup, placements: list[Placement], link: KvLink) -> Row:
    prefill, decode = (
        configuration_json(role, placement)
        for role, placement in zip((setup.prefill, setup.decode), placements, strict=True)
    )
    return {
        "model": setup.prefill.program.model,
        "mode": "disaggregated",
        "prefill": prefill,
        "decode": decode,
        "kv_link": asdict(link),
        "replicas": prefill["replicas"] + decode["replicas"],
        "gpus": prefill["gpus"] + decode["gpus"],
        "usd_per_hour": prefill["usd_per_hour"] + decode["usd_per_hour"],
    }


def _provenance(placements: list[Placement], loader: TableLoader, shares: bool) -> Row:
    skus = {placement.sku.name: placement.sku for placement in placements}
    notes = dict.fromkeys(note for sku in skus.values() for note in loader.notes(sku))
    unused = "decode replicas keep no prefixes: the KV of every prompt is sent whole"
    return {
        "operator_times": {name: loader.provenance(sku) for name, sku in skus.items()},
        "notes": [*notes, *([unused] if shares else [])],
    }
