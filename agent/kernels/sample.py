"""One token per row of logits by the exponential race, as vLLM draws it (vllm/v1/sample, ``random_sample``).

The noise is drawn beforehand, normal numbers for exponential ones: the race is what grows with the
vocabulary, and takes as long over any.
"""

from __future__ import annotations

import torch

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.fuse import fused
from servecast.agent.kernels.kernel import (
    Capability,
    Formats,
    Kernel,
    Prepared,
    Shape,
    without_cache,
)


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """Logits [rows, vocab] in fp32, warm from the head's projection."""
    rows, vocab = shape["rows"], shape["vocab"]
    logits = buffers.normal(rows, vocab, dtype=torch.float32)
    noise = buffers.normal(rows, vocab, dtype=torch.float32)
    buffers.reserve(2 * logits.nbytes)
    race = fused(_race, logits.device)
    return Prepared(
        launches=(lambda: race(logits, noise),),
        reference=lambda: _race(logits.double(), noise.double()).double(),
        tolerance=0.0,
    )


def _race(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, dim=-1).div_(noise).argmax(dim=-1)


def formats(capability: Capability) -> Formats:
    """Engines sample in fp32 whatever the model's format."""
    del capability
    return without_cache("fp32")


KERNEL = Kernel(("rows", "vocab"), prepare, formats)
