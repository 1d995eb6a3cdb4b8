"""Which backend this machine has, and what its GPUs are called in the specs."""

from __future__ import annotations

import torch

from servecast.agent.backend import Backend
from servecast.agent.cpu import CpuBackend
from servecast.agent.cuda import cuda_backend
from servecast.compiler.errors import AgentError

CPU_SKU = "cpu"
# What the driver calls a GPU (the start of its name) -> its name in spec/skus.llm; longer starts first.
SKU_BY_DEVICE_NAME = {
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA A30": "a30",
    "NVIDIA A40": "a40",
    "NVIDIA B200": "b200-sxm",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA L40S": "l40s",
}


def choose_backend(name: str, threads: int) -> Backend:
    """``cpu``, ``cuda``, or for ``auto`` CUDA where a GPU answers. Raises: AgentError without a GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CpuBackend(threads)
    if not torch.cuda.is_available():
        raise AgentError(
            "PyTorch sees no CUDA GPU here; install its driver, or measure the processor with --backend cpu"
        )
    return cuda_backend()


def sku_of(backend: Backend) -> str:
    """The spec's name for the devices, or empty where their own name is not one we know."""
    if backend.name == "cpu":
        return CPU_SKU
    name = backend.devices()[0].name
    return next((sku for start, sku in SKU_BY_DEVICE_NAME.items() if name.startswith(start)), "")
