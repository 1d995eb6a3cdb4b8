"""Every kernel that an agent can time, by its name in compiler/kernels.py."""

from __future__ import annotations

from servecast.agent.kernels import (
    activation,
    add,
    attention,
    embedding,
    experts,
    kv_write,
    latent,
    linear,
    norm,
    rope,
    router,
    sample,
)
from servecast.agent.kernels.kernel import Kernel

KERNELS: dict[str, Kernel] = {
    **activation.KERNELS,
    "add": add.KERNEL,
    "attention_decode": attention.DECODE,
    "attention_prefill": attention.PREFILL,
    "embedding": embedding.KERNEL,
    "experts": experts.KERNEL,
    "kv_write": kv_write.KERNEL,
    "latent_decode": latent.DECODE,
    "latent_prefill": latent.PREFILL,
    "layer_norm": norm.LAYER_NORM,
    "linear": linear.KERNEL,
    "rms_norm": norm.RMS_NORM,
    "rope": rope.KERNEL,
    "router": router.KERNEL,
    "sample": sample.KERNEL,
}
