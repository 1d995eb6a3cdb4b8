"""The options of ``servecast simulate`` that take prefill and decode apart: ``docs/serving-modes.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import click

from servecast.compiler.errors import UserError

AGGREGATED, DISAGGREGATED = "aggregated", "disaggregated"
ROLES = ("prefill", "decode")
_COUNT = click.IntRange(min=1)
_AMOUNT = click.FloatRange(min=0)
_OF_A_ROLE: dict[str, tuple[str, Any]] = {  # field of `Setup`: option, type
    "sku": ("sku", str),
    "tp": ("tp", _COUNT),
    "pp": ("pp", _COUNT),
    "replicas": ("replicas", _COUNT),
    "max_num_seqs": ("max-num-seqs", _COUNT),
    "max_batched_tokens": ("max-num-batched-tokens", _COUNT),
    "kv_blocks": ("kv-blocks", _COUNT),
}
_LINK: dict[str, str] = {
    "kv_gb_per_s": "--kv-bandwidth",
    "kv_ms": "--kv-latency",
    "kv_layers": "--kv-layers",
    "kv_shared": "--kv-shared-link",
}
_REFUSED = {
    "replicas": ("--replicas", "say --prefill-replicas and --decode-replicas"),
    "kv_tiers": ("--kv-tier", "what its prefill replicas drop is gone"),
    "drafter": ("--drafter", "its replicas do not speculate"),
    "clients": ("--clients", "its requests arrive by themselves"),
}
_OF_PREFILL = ("max_queue", "queue_timeout_s", "prefix_caching")
"""What holds for the prefill role alone: clients wait there, and prefixes are found there."""


@dataclass(frozen=True, slots=True)
class AskedPools:
    """What of each role's `Setup` was said, and of the `AskedLink` between the roles."""

    prefill: dict[str, Any]
    decode: dict[str, Any]
    link: dict[str, Any]


def pool_options(command: Any) -> Any:
    """Adds them, in this order."""
    for option in reversed(_options()):
        command = option(command)
    return command


def _options() -> list[Callable[[Any], Any]]:
    mode = click.option(
        "--mode",
        type=click.Choice([AGGREGATED, DISAGGREGATED]),
        default=AGGREGATED,
        show_default=True,
        help="Replicas that do both, or prefill and decode apart.",
    )
    roles = [
        click.option(
            f"--{role}-{option}",
            f"{role}_{name}",
            type=kind,
            help=f"Of the {role} replicas.  [default: {'1' if name == 'replicas' else '--' + option}]",
        )
        for role in ROLES
        for name, (option, kind) in _OF_A_ROLE.items()
    ]
    link = [
        click.option(
            "--kv-bandwidth",
            "kv_gb_per_s",
            type=click.FloatRange(min=0, min_open=True),
            help="GB/s of a KV link; by default the network of the slower role's GPUs.",
        ),
        click.option("--kv-latency", "kv_ms", type=_AMOUNT, help="Of a KV link, ms.  [default: 0]"),
        click.option(
            "--kv-layers",
            type=_COUNT,
            help="Parts in which KV leaves while the prefill runs.  [default: 1]",
        ),
        click.option(
            "--kv-shared-link", "kv_shared", is_flag=True, default=None, help="One for all."
        ),
    ]
    return [mode, *roles, *link]


def take_pools(options: dict[str, Any], common: Mapping[str, Any]) -> AskedPools | None:
    """Takes them out of ``options``; None: one pool. A role that says nothing else has what is ``common``.

    Raises:
        UserError: two options that contradict each other.
    """
    mode = options.pop("mode")
    roles = {role: _said(options, role) for role in ROLES}
    link = {name: options.pop(name) for name in _LINK}
    for name in ("kv_gb_per_s", "kv_ms"):
        if link[name] is not None and not isfinite(link[name]):
            raise UserError(f"{_LINK[name]} must be a number, got {link[name]}")
    if mode == AGGREGATED:
        _refuse_alone(roles, link)
        return None
    for name, (option, why) in _REFUSED.items():
        if common.get(name):
            raise UserError(f"{option} with --mode {DISAGGREGATED}: {why}")
    shared = {name: value for name, value in common.items() if name not in _REFUSED}
    decode = {name: value for name, value in shared.items() if name not in _OF_PREFILL}
    return AskedPools(
        {**shared, **roles["prefill"]}, {**decode, **roles["decode"]}, _asked_link(link)
    )


def _said(options: dict[str, Any], role: str) -> dict[str, Any]:
    values = {name: options.pop(f"{role}_{name}") for name in _OF_A_ROLE}
    return {name: value for name, value in values.items() if value is not None}


def _refuse_alone(roles: Mapping[str, Mapping[str, Any]], link: Mapping[str, Any]) -> None:
    said = [f"--{role}-{_OF_A_ROLE[name][0]}" for role in ROLES for name in roles[role]]
    said += [option for name, option in _LINK.items() if link[name] is not None]
    if said:
        raise UserError(f"{said[0]} without --mode {DISAGGREGATED}: one pool has no roles")


def _asked_link(said: Mapping[str, Any]) -> dict[str, Any]:
    gb_per_s = said["kv_gb_per_s"]
    return {
        "bytes_per_s": None if gb_per_s is None else gb_per_s * 1e9,
        "latency_s": (said["kv_ms"] or 0.0) / 1e3,
        "layers": said["kv_layers"] or 1,
        "shared": bool(said["kv_shared"]),
    }
