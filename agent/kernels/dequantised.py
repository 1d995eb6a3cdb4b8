"""Quantised weights and caches where nothing multiplies them: the launch makes bf16 of them first.

So do engines on devices without a format's units (vLLM's emulation of mxfp4 and nvfp4, its fallbacks for fp8
experts and caches). Of experts only those that some row chose are widened.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels import attention, latent, paged
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.experts import DIMS, Routing, popular, route, run
from servecast.agent.kernels.fuse import fused
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Prepared,
    Shape,
    without_cache,
)
from servecast.agent.kernels.quantised import WIDEN, Quantised, drawn

WIDE = torch.bfloat16


def prepare_linear(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, in_features] in bf16 is warm; the weights are cold and quantised."""
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(rows, inner, dtype=WIDE)
    copies = buffers.copies(WEIGHT_BITS[shape.dtype] * inner * outer // 8)
    weights = [drawn(shape.dtype, (1, outer, inner), buffers) for _ in range(copies)]
    buffers.reserve((inner * outer + rows * outer) * WIDE.itemsize)
    widen, exact = fused(WIDEN[shape.dtype], x.device), WIDEN[shape.dtype]
    first = weights[0]

    def launch(w: Quantised) -> torch.Tensor:
        return functional.linear(x, widen(w.codes, w.scales, WIDE)[0])

    return Prepared(
        launches=tuple(partial(launch, w) for w in weights),
        reference=lambda: x.double() @ exact(first.codes, first.scales, torch.float64)[0].t(),
        tolerance=TOLERANCE[WIDE],
    )


WEIGHT_BITS = {name: 8 if name in ("fp8", "fp8_block", "int8") else 4 for name in WIDEN}


def prepare_uniform(shape: Shape, buffers: Buffers) -> Prepared:
    return _prepare_experts(shape, buffers, route(shape, buffers))


def prepare_skewed(shape: Shape, buffers: Buffers) -> Prepared:
    return _prepare_experts(shape, buffers, popular(shape, buffers))


def _prepare_experts(shape: Shape, buffers: Buffers, routing: Routing) -> Prepared:
    """As `experts.py`, with the weights of the chosen experts widened in the launch."""
    rows, hidden, inner = shape["rows"], shape["hidden"], shape["intermediate"]
    x = buffers.normal(rows, hidden, dtype=WIDE)
    matrices = 3 * shape["experts"] * hidden * inner
    copies = buffers.copies(WEIGHT_BITS[shape.dtype] * matrices // 8)
    weights = [_pair(shape, buffers) for _ in range(copies)]
    buffers.reserve((matrices + len(routing.rows) * (hidden * 2 + inner * 3)) * WIDE.itemsize)
    chosen, some = _chosen(routing)
    widen, exact = fused(WIDEN[shape.dtype], x.device), WIDEN[shape.dtype]

    def launch(up: Quantised, down: Quantised) -> torch.Tensor:
        if len(chosen) < shape["experts"]:
            up, down = up.of(chosen), down.of(chosen)
        wide = (widen(up.codes, up.scales, WIDE), widen(down.codes, down.scales, WIDE))
        return run(x, *wide, some)

    def reference() -> torch.Tensor:
        up, down = (exact(w.codes, w.scales, torch.float64) for w in weights[0])
        return run(x.double(), up, down, routing)

    return Prepared(tuple(partial(launch, *w) for w in weights), reference, TOLERANCE[WIDE])


def _pair(shape: Shape, buffers: Buffers) -> tuple[Quantised, Quantised]:
    """Gate and up in one [experts, 2 * intermediate, hidden], down [experts, hidden, intermediate]."""
    experts, hidden, inner = shape["experts"], shape["hidden"], shape["intermediate"]
    up = drawn(shape.dtype, (experts, 2 * inner, hidden), buffers)
    return up, drawn(shape.dtype, (experts, hidden, inner), buffers)


def _chosen(routing: Routing) -> tuple[torch.Tensor, Routing]:
    """The experts that have rows, and the routing among them."""
    counts = routing.ends.diff(prepend=routing.ends.new_zeros(1))
    chosen = torch.nonzero(counts)[:, 0]
    return chosen, Routing(routing.rows, routing.weights, routing.ends[chosen])


def weights(capability: Capability) -> Formats:
    del capability
    return without_cache(*WIDEN)


def caches(capability: Capability) -> Formats:
    del capability
    return tuple((dtype, kv_dtype) for dtype in ("bf16", "fp16") for kv_dtype in ("fp8", "int8"))


KERNELS = {
    "linear": Kernel(("rows", "in_features", "out_features"), prepare_linear, weights),
    "experts": Kernel(DIMS, prepare_uniform, weights),
    "experts_skewed": Kernel(DIMS, prepare_skewed, weights),
    "attention_prefill": Kernel(attention.PREFILL.dims, attention.prepare_prefill, caches),
    "attention_decode": Kernel(attention.DECODE.dims, attention.prepare_decode, caches),
    "attention_decode_skewed": Kernel(paged.DIMS, paged.SKEWED_DECODE.prepare, caches),
    "latent_prefill": Kernel(latent.PREFILL.dims, latent.prepare_prefill, caches),
    "latent_decode": Kernel(latent.DECODE.dims, latent.prepare_decode, caches),
}
