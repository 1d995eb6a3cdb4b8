"""A configuration of the answer as files that start it and load it. Pure.

The prediction is of vLLM's scheduler. The other engines' commands set the same limits by their names.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servecast.simulator.search.space import BLOCK_TOKENS, UTILISATION

Row = Mapping[str, Any]

IMAGE = "vllm/vllm-openai:latest"
PORT = 8000
LOAD_TEST_S = 600


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its operands, and its options, each with its value if it has one."""

    program: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> list[str]:
        return [*self.program, *(word for option in self.options for word in option)]

    def script(self, says: str) -> str:
        """A shell script that runs it, one option a line."""
        lines = [shlex.join(self.program), *(f"  {shlex.join(option)}" for option in self.options)]
        return f"#!/bin/sh\n# {says}\nexec " + " \\\n".join(lines) + "\n"


def vllm_command(row: Row, model: str) -> Command:
    """Flags as of vLLM 0.32."""
    return Command(
        ("vllm", "serve", model),
        (
            ("--port", str(PORT)),
            ("--tensor-parallel-size", str(row["tp"])),
            ("--pipeline-parallel-size", str(row["pp"])),
            ("--max-num-seqs", str(row["max_num_seqs"])),
            ("--max-num-batched-tokens", str(row["max_batched_tokens"])),
            ("--gpu-memory-utilization", str(UTILISATION)),
            ("--block-size", str(BLOCK_TOKENS)),
            ("--no-enable-prefix-caching",),
        ),
    )


def sglang_command(row: Row, model: str) -> Command:
    """Flags as of SGLang 0.5; not checked against its parser."""
    return Command(
        ("python3", "-m", "sglang.launch_server"),
        (
            ("--model-path", model),
            ("--host", "0.0.0.0"),
            ("--port", str(PORT)),
            ("--tp-size", str(row["tp"])),
            ("--pp-size", str(row["pp"])),
            ("--max-running-requests", str(row["max_num_seqs"])),
            ("--chunked-prefill-size", str(row["max_batched_tokens"])),
            ("--mem-fraction-static", str(UTILISATION)),
            ("--disable-radix-cache",),
        ),
    )


def trtllm_command(row: Row, model: str) -> Command:
    """Flags as of TensorRT-LLM 1.0; not checked against its parser."""
    return Command(
        ("trtllm-serve", model),
        (
            ("--host", "0.0.0.0"),
            ("--port", str(PORT)),
            ("--tp_size", str(row["tp"])),
            ("--pp_size", str(row["pp"])),
            ("--max_batch_size", str(row["max_num_seqs"])),
            ("--max_num_tokens", str(row["max_batched_tokens"])),
            ("--kv_cache_free_gpu_memory_fraction", str(UTILISATION)),
        ),
    )


ENGINES = {"vllm": vllm_command, "sglang": sglang_command, "trtllm": trtllm_command}


def load_test(result: Row, model: str) -> Command:
    """``vllm bench serve`` at the trace's rate and burstiness, with its mean lengths, for ten minutes."""
    traffic = result["workload"]
    rate_per_s, cv = traffic["rate_per_s"], traffic["gap_cv"]
    options = (
        ("--model", model),
        ("--base-url", f"http://localhost:{PORT}"),
        ("--dataset-name", "random"),
        ("--random-input-len", str(round(traffic["prompt_tokens"]["mean"]))),
        ("--random-output-len", str(round(traffic["output_tokens"]["mean"]))),
        ("--ignore-eos",),
        ("--num-prompts", str(round(rate_per_s * LOAD_TEST_S))),
        ("--request-rate", f"{rate_per_s:.3f}"),
        ("--burstiness", f"{1 / cv**2:.3f}"),
        ("--percentile-metrics", "ttft,tpot,itl,e2el"),
        ("--metric-percentiles", "50,90,99"),
        ("--save-result",),
    )
    return Command(("vllm", "bench", "serve"), options)


def kubernetes(row: Row, model: str) -> str:
    """A vLLM Deployment of all replicas and its Service, as JSON; ``kubectl apply -f`` takes it."""
    labels = {"app": "servecast-" + row["sku"]}
    gpus = str(row["tp"] * row["pp"])
    container = {
        "name": "vllm",
        "image": IMAGE,
        "command": vllm_command(row, model).words,
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": PORT},
            "failureThreshold": 120,
            "periodSeconds": 10,
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": labels["app"]},
        "spec": {"replicas": row["replicas"], "selector": {"matchLabels": labels}, "template": pod},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": labels["app"]},
        "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": PORT}]},
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [deployment, service]}
    return json.dumps(both, indent=2) + "\n"


def files(result: Row, rank: int) -> dict[str, str]:
    """File names and texts for the configuration at ``rank`` (from 1) of a result."""
    row = result["ranked"][rank - 1]
    model = result["question"]["source"]
    says = f"{result['question']['model']}: one of {row['replicas']} replicas on {row['sku']}"
    scripts = {f"{name}.sh": command(row, model).script(says) for name, command in ENGINES.items()}
    predicted = f"predicted: ttft p90 {row['metrics']['ttft_s']['p90']:.3f} s when full"
    return {
        **scripts,
        "kubernetes.json": kubernetes(row, model),
        "load-test.sh": load_test(result, model).script(predicted),
    }
