"""A configuration as Kubernetes objects, in JSON, which ``kubectl apply -f`` takes. Pure.

A deployment whose replicas do the whole request is a plain Deployment and Service. One that has prefill and
decode apart needs something that hands requests and caches over: NVIDIA Dynamo's graph here, or ``llm_d``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from servecast.simulator.deploy.engines import PORT, Command, Row, degree, vllm_command

IMAGE = "vllm/vllm-openai:latest"
DYNAMO_IMAGE = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.0.0"
MINUTES_TO_START = 20
"""What loading the largest checkpoints takes; a pod that is not ready by then has failed."""

PROBE_PERIOD_S = 10
SKU_LABEL = "servecast/sku"
"""Of nodes, where roles are on different GPUs: clusters name their GPUs each in a way of its own."""


HF_SECRET = "hf-token-secret"


def token_of(secret: str) -> list[dict[str, Any]]:
    """Hugging Face's token as an environment variable, where the cluster has the secret: gated models ask."""
    key = {"name": secret, "key": "HF_TOKEN", "optional": True}
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}}]


def gpus_of(row: Row) -> int:
    """GPUs of one replica."""
    return int(row["tp"]) * int(row["pp"]) * degree(row, "dp")


def node_selector(rows: Iterable[Row], row: Row) -> dict[str, str]:
    """The nodes of one of the ``rows``; nothing where all are on one SKU."""
    skus = {each["sku"] for each in rows}
    return {SKU_LABEL: str(row["sku"])} if len(skus) > 1 else {}


def kubernetes(row: Row, model: str) -> str:
    """A vLLM Deployment of all replicas, and its Service."""
    labels = {"app": _name(row)}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": labels["app"], "labels": labels},
        "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": PORT}]},
    }
    replicas = deployment(labels["app"], row, labels, pod(row, vllm_command(row, model), PORT))
    return json_text({"apiVersion": "v1", "kind": "List", "items": [replicas, service]})


def deployment(
    name: str, row: Row, labels: Mapping[str, str], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """A Deployment of all replicas of a configuration, ``spec`` being that of their pods."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            "replicas": row["replicas"],
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": spec},
        },
    }


def dynamo_graph(roles: Mapping[str, Row], model: str) -> str:
    """A DynamoGraphDeployment of a frontend and the workers of each role, ``prefill`` and ``decode``."""
    services: dict[str, Any] = {
        "Frontend": {
            "componentType": "frontend",
            "replicas": 1,
            "extraPodSpec": {"mainContainer": {"image": DYNAMO_IMAGE}},
        }
    }
    for role, row in roles.items():
        services[f"Vllm{role.capitalize()}Worker"] = {
            "componentType": "worker",
            "subComponentType": role,
            "replicas": row["replicas"],
            "resources": {"limits": {"gpu": str(gpus_of(row))}},
            "extraPodSpec": {
                "nodeSelector": node_selector(roles.values(), row),
                "mainContainer": {
                    "image": DYNAMO_IMAGE,
                    "command": ["python3", "-m", "dynamo.vllm"],
                    "args": _dynamo_arguments(row, model, role),
                    "env": token_of(HF_SECRET),
                },
            },
        }
    graph = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": "servecast-disaggregated"},
        "spec": {"backendFramework": "vllm", "services": services},
    }
    return json_text(graph)


def _dynamo_arguments(row: Row, model: str, role: str) -> list[str]:
    """Dynamo's vLLM worker takes the engine's own options, and its role."""
    options = vllm_command({**row, "role": role}, model).options
    engine = [word for option in options if option[0] != "--port" for word in option]
    return ["--model", model, *engine, f"--is-{role}-worker"]


def pod(row: Row, command: Command, port: int) -> dict[str, Any]:
    """The pod of one replica, which listens on ``port``."""
    container = {
        "name": "vllm",
        "image": IMAGE,
        "command": command.words,
        "ports": [{"containerPort": port}],
        "env": token_of(HF_SECRET),
        "resources": {"limits": {"nvidia.com/gpu": str(gpus_of(row))}},
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": port},
            "failureThreshold": MINUTES_TO_START * 60 // PROBE_PERIOD_S,
            "periodSeconds": PROBE_PERIOD_S,
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    return {
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],  # NCCL's, between ranks
    }


def _name(row: Row) -> str:
    return "servecast-" + str(row["sku"]).lower().replace("_", "-")


def json_text(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
