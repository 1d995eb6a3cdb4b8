"""Every kernel that an agent can time, by its name in compiler/kernels.py, and whose libraries have it.

PyTorch has them all. Others are imported where they are installed and asked for; the first that has a
kernel in a format answers for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from servecast.agent.kernels import (
    activation,
    add,
    attention,
    delta,
    embedding,
    experts,
    kv_write,
    latent,
    linear,
    norm,
    paged,
    rope,
    router,
    sample,
)
from servecast.agent.kernels.kernel import Capability, Kernel
from servecast.compiler.errors import AgentError

KERNELS: dict[str, Kernel] = {
    **activation.KERNELS,
    "add": add.KERNEL,
    "attention_decode": attention.DECODE,
    "attention_decode_skewed": paged.SKEWED_DECODE,
    "attention_prefill": attention.PREFILL,
    "delta_decode": delta.DECODE,
    "delta_prefill": delta.PREFILL,
    "embedding": embedding.KERNEL,
    **experts.KERNELS,
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


@dataclass(frozen=True, slots=True)
class Library:
    """``package`` must be installed; ``module`` of this folder has ``KERNELS``. Without ``backend``, any."""

    package: str
    module: str
    backend: str = ""


LIBRARIES: dict[str, Library] = {
    "torch": Library("torch", "registry"),
    "flashinfer": Library("flashinfer", "with_flashinfer", "cuda"),
    "flash_attn": Library("flash_attn", "with_flash_attn", "cuda"),
    "cupy": Library("cupy", "with_cupy", "cuda"),
    "vllm": Library("vllm", "with_vllm", "cpu"),
    "torch_weight_only": Library("torch", "weight_only"),
    "dequantised": Library("torch", "dequantised"),
    "flex_attention": Library("torch", "with_flex"),
}
"""In the order in which they are asked where nobody says another one."""

# Only where they are asked for, by backend: importing vLLM takes longer than most profiles, compiling for
# FlexAttention longer than most cases, and on a GPU few engines widen in a launch of its own.
ON_DEMAND = {"vllm": ("cpu",), "flex_attention": ("cpu", "cuda"), "dequantised": ("cuda",)}


@dataclass(frozen=True, slots=True)
class Offer:
    """A library's kernel."""

    library: str
    name: str
    kernel: Kernel


def installed(backend: str) -> tuple[str, ...]:
    """Libraries that are there for devices of a backend, those aside that only come when asked for."""
    return tuple(
        name
        for name in LIBRARIES
        if backend not in ON_DEMAND.get(name, ()) and _is_there(name, backend)
    )


def offers(libraries: Sequence[str], capability: Capability) -> tuple[Offer, ...]:
    """Every kernel of the libraries, by name and then in their order.

    Raises: AgentError where a library is unknown, not installed or cannot be loaded.
    """
    found = [offer for name in libraries for offer in _of(name, capability)]
    return tuple(sorted(found, key=lambda offer: offer.name))


def _of(name: str, capability: Capability) -> Iterator[Offer]:
    if name not in LIBRARIES:
        raise AgentError(f"no library {name!r}; an agent knows {', '.join(LIBRARIES)}")
    library = LIBRARIES[name]
    if not _is_there(name, capability.backend):
        where = f"on {library.backend or 'any'} devices, with the package {library.package}"
        raise AgentError(f"{name} is not here: its kernels run {where}")
    try:
        kernels = import_module(f"servecast.agent.kernels.{library.module}").KERNELS
    except (ImportError, OSError) as error:
        raise AgentError(f"{name} is installed, but cannot be loaded: {error}") from error
    for kernel, row in kernels.items():
        yield Offer(name, kernel, row)


def _is_there(name: str, backend: str) -> bool:
    library = LIBRARIES[name]
    return library.backend in ("", backend) and find_spec(library.package) is not None
