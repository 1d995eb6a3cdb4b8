"""A configuration as llm-d's files: model servers, Helm values of the router, what applies both. Pure.

SOURCE: llm-d 0.9, guides/pd-disaggregation and guides/optimized-baseline: model servers are Deployments that
labels tell apart by role, and a sidecar before each decode server asks the prefill server that the router
chose. The values are those of llm-d-router 0.10, config/charts/llm-d-router-standalone and routerlib.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from servecast.simulator.deploy.engines import PORT, Row, role_of, vllm_command
from servecast.simulator.deploy.kubernetes import (
    deployment,
    json_text,
    node_selector,
    pod,
    token_of,
)

NAME = "servecast"
CHART = "oci://ghcr.io/llm-d/charts/llm-d-router-standalone"
ROUTER_VERSION = "v0.10.0"
SIDECAR_IMAGE = f"ghcr.io/llm-d/llm-d-router-disagg-sidecar:{ROUTER_VERSION}"
POOL_DEFINITIONS = (
    "https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/download/v1.5.0/"
    "v1-manifests.yaml"
)
ENGINE_PORT = 8200
"""Of a decode server, behind the sidecar that takes its place on ``PORT``."""

NIXL_PORT = 5600
PROXY_PORT = 8081
PLUGINS_FILE = "servecast-plugins.yaml"

LEAST_REQUESTS = "active-request-scorer"
SCORERS: Mapping[str, str | None] = {
    "least_outstanding": LEAST_REQUESTS,
    "least_tokens": "token-load-scorer",
    "random": None,
}
"""What scores replicas by a router's rule; llm-d's fewest active requests stand in for other rules."""


def llm_d(parts: Iterable[Row], model: str) -> dict[str, str]:
    """File names and texts; ``parts`` are one row for each role, or one alone without a role."""
    rows = list(parts)
    return {
        "llm-d.json": _servers(rows, model),
        "llm-d-router.json": json_text(_router_values(rows)),
        "llm-d.sh": _script(rows, model),
    }


def _servers(rows: list[Row], model: str) -> str:
    items = [_deployment(row, _pod(row, model, rows)) for row in rows]
    return json_text({"apiVersion": "v1", "kind": "List", "items": items})


def _deployment(row: Row, spec: Mapping[str, Any]) -> dict[str, Any]:
    role = role_of(row)
    labels = {"app": NAME, "llm-d.ai/role": role or "prefill-decode"}
    return deployment(f"{NAME}-{role}" if role else NAME, row, labels, spec)


def _pod(row: Row, model: str, rows: list[Row]) -> dict[str, Any]:
    """Where roles are apart, each on the nodes of its SKU, and a sidecar before decode servers."""
    role = role_of(row)
    port = ENGINE_PORT if role == "decode" else PORT
    spec = pod(row, vllm_command(row, model, port), port)
    (container,) = spec["containers"]
    container["env"] = token_of("llm-d-hf-token")
    if role is None:
        return spec
    own_address = {"fieldRef": {"fieldPath": "status.podIP"}}
    container["env"].append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": own_address})
    container["ports"].append({"containerPort": NIXL_PORT})
    sidecars = {"initContainers": [_sidecar()]} if role == "decode" else {}
    return {**spec, "nodeSelector": node_selector(rows, row), **sidecars}


def _sidecar() -> dict[str, Any]:
    return {
        "name": "routing-proxy",
        "image": SIDECAR_IMAGE,
        "args": [f"--port={PORT}", "--kv-connector=nixlv2", "--secure-proxy=false"],
        "ports": [{"containerPort": PORT}],
        "restartPolicy": "Always",  # a sidecar: Kubernetes starts it before the server and keeps it
    }


def _router_values(rows: list[Row]) -> dict[str, Any]:
    """Values of the router's chart, which makes the InferencePool and the endpoint picker."""
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": PROXY_PORT}
    picker = {
        "replicas": 1,  # each would count the requests in flight for itself
        "pluginsConfigFile": PLUGINS_FILE,
        "pluginsCustomConfig": {PLUGINS_FILE: json_text(_plugins(rows))},
    }
    servers = {"matchLabels": {"app": NAME}, "targetPorts": [{"number": PORT}]}
    return {"router": {"extraServicePorts": [port], "epp": picker, "modelServers": servers}}


def _plugins(rows: list[Row]) -> dict[str, Any]:
    """An EndpointPickerConfig. Prefill is always apart, as it was simulated."""
    scorer = scorer_of(rows[0])
    choosing = [scorer, "max-score-picker"] if scorer else ["random-picker"]
    apart = len(rows) > 1
    decider = "always-disagg-pd-decider"
    handler = {"deciders": {"prefill": decider}}
    plugins: list[dict[str, Any]] = [{"type": "inflight-load-producer"}] if scorer else []
    if apart:
        plugins += [
            {"type": decider},
            {"type": "disagg-profile-handler", "parameters": handler},
            *({"type": f"{role_of(row)}-filter"} for row in rows),
        ]
    profiles = {role_of(row): [f"{role_of(row)}-filter", *choosing] for row in rows}
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [*plugins, *({"type": each} for each in choosing)],
        "schedulingProfiles": [
            {"name": role or "default", "plugins": [{"pluginRef": each} for each in used]}
            for role, used in (profiles if apart else {None: choosing}).items()
        ],
    }


def scorer_of(row: Row) -> str | None:
    """None: a replica is drawn."""
    return SCORERS.get(_rule(row), LEAST_REQUESTS)


def _rule(row: Row) -> str:
    """The router's name, without its parameters."""
    return str(row.get("router") or "least_outstanding").partition(":")[0]


def _script(rows: list[Row], model: str) -> str:
    rule = _rule(rows[0])
    says = [
        f"{model} on llm-d 0.9: needs kubectl, Helm 3, and nodes with drivers and RDMA",
        f"then, for the load test: kubectl port-forward service/{NAME}-epp {PORT}:80",
    ]
    if rule not in SCORERS:
        says.append(f"predicted with the router {rule}; llm-d has none such: {LEAST_REQUESTS}")
    says += [
        f"first: kubectl label node NODE {label}={value}   # the nodes of the {role_of(row)} servers"
        for row in rows
        for label, value in node_selector(rows, row).items()
    ]
    chart_options = ("--version", ROUTER_VERSION, "--values", "llm-d-router.json")
    commands = [
        ("kubectl", "apply", "-f", POOL_DEFINITIONS),
        ("helm", "upgrade", "--install", NAME, CHART, *chart_options),
        ("kubectl", "apply", "-f", "llm-d.json"),
    ]
    comments = "".join(f"# {line}\n" for line in says)
    return f"#!/bin/sh\n{comments}set -e\n" + "".join(f"{shlex.join(c)}\n" for c in commands)
