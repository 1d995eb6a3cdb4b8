"""Element-wise formulas as engines run them: one generated kernel each on a GPU, as written on a processor.

vLLM v1 leaves its norms, activations and rotary embeddings to Inductor (compilation level 3); so does this.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


def fused(function: Callable[Arguments, Value], device: torch.device) -> Callable[Arguments, Value]:
    """The function for tensors of the device; what it compiles serves every shape."""
    return function if device.type == "cpu" else compiled(function)


@cache  # a process compiles a formula once; the results are never dropped
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Whole or not at all: falling back to the formula as written would time something else."""
    return torch.compile(function, dynamic=True, fullgraph=True)
