"""What a kernel must at least do, and the shortest time in which a GPU's datasheet lets it be done.

The same counts as the operators of ``compiler/ir.py``, over columns of dimensions. FLOPs count a
multiply and an add as two; bytes are every operand once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from servecast.compiler.formats import BF16, FORMATS, Format, int4
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import ActivationKind
from servecast.estimator.measurement import Floats, Ints

Dims = Mapping[str, Ints | Floats]  # [cases] per dimension
Columns = Mapping[str, Floats]  # the same, to calculate with
ACTIVATION_BYTES = 2  # bf16 or fp16 between operators

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """FLOPs, and bytes moved through memory or, for a collective, over one GPU's link; [cases]."""

    flops: Floats
    num_bytes: Floats


@dataclass(frozen=True, slots=True)
class KernelKind:
    """A kernel with its formats: everything of a case that is not a number."""

    kernel: str
    dtype: str
    kv_dtype: str = ""


def format_of(name: str) -> Format:
    """The format of that name; a name the compiler does not know counts as bf16."""
    if name.startswith("int4_g"):
        return int4(int(name.removeprefix("int4_g")))
    return FORMATS.get(name, BF16)


def bytes_per_element(name: str) -> float:
    fmt = format_of(name)
    return (fmt.bits + fmt.scale_bits / fmt.scale_elements) / 8


def _linear(kind: KernelKind, d: Columns) -> Work:
    rows, k, n = (d[x] for x in ("rows", "in_features", "out_features"))
    moved = k * n * bytes_per_element(kind.dtype) + rows * (k + n) * _activation_bytes(kind.dtype)
    return Work(2 * rows * k * n, moved)


def _activation_bytes(weights: str) -> float:
    """Inputs are quantised with the weights where the tensor cores multiply in that format."""
    return 1.0 if weights in ("fp8", "fp8_block", "int8") else float(ACTIVATION_BYTES)


def _experts(kind: KernelKind, d: Columns) -> Work:
    """Gated experts under uniform routing, as ``ir.Experts`` counts them."""
    rows, hidden, inter = (d[x] for x in ("rows", "hidden", "intermediate"))
    matrices = 3 * hidden * inter
    routed = rows * d["top_k"] * d["experts"] / d["total_experts"]
    touched = 1 - (1 - d["top_k"] / d["total_experts"]) ** rows
    weights = d["experts"] * matrices * touched * bytes_per_element(kind.dtype)
    return Work(2 * routed * matrices, weights + ACTIVATION_BYTES * rows * 2 * hidden)


def _prefill(kind: KernelKind, d: Columns) -> Work:
    context, chunk, heads = (d[x] for x in ("context", "chunk", "heads"))
    pairs = _pairs(context, chunk, d["window"])
    visible = np.where(
        d["window"] > 0, np.minimum(context + chunk, d["window"] + chunk - 1), context + chunk
    )
    kv = 2 * d["kv_heads"] * d["head_dim"] * bytes_per_element(kind.kv_dtype)
    moved = ACTIVATION_BYTES * 2 * chunk * heads * d["head_dim"] + kv * visible
    return Work(d["batch"] * 4 * pairs * heads * d["head_dim"], d["batch"] * moved)


def _pairs(context: Floats, chunk: Floats, window: Floats) -> Floats:
    """(query, key) pairs; ``window`` 0 sees everything."""
    full = chunk * context + chunk * (chunk + 1) / 2
    growing = np.clip(window - context, 0, chunk)
    seen = growing * context + growing * (growing + 1) / 2 + (chunk - growing) * window
    return np.where(window > 0, seen, full)


def _decode(kind: KernelKind, d: Columns) -> Work:
    context = d["context"]
    visible = np.where(d["window"] > 0, np.minimum(context + 1, d["window"]), context + 1)
    per_token = d["heads"] * d["head_dim"]
    kv = 2 * d["kv_heads"] * d["head_dim"] * bytes_per_element(kind.kv_dtype)
    moved = ACTIVATION_BYTES * 2 * per_token + kv * visible
    return Work(d["batch"] * 4 * visible * per_token, d["batch"] * moved)


def _skewed_decode(kind: KernelKind, d: Columns) -> Work:
    """``context`` is the batch's mean; of a window no sequence is sure to see more than half of it."""
    sure = np.where(d["window"] > 0, d["context"] // 2, d["context"])
    return _decode(kind, {**d, "context": sure})


def _mixed(kind: KernelKind, d: Columns) -> Work:
    """``batch`` decodes beside one prompt of ``chunk`` tokens, in one launch."""
    prompt = _prefill(kind, {**d, "batch": np.ones_like(d["batch"]), "context": 0 * d["context"]})
    decodes = _decode(kind, d)
    return Work(prompt.flops + decodes.flops, prompt.num_bytes + decodes.num_bytes)


def _latent_prefill(kind: KernelKind, d: Columns) -> Work:
    context, chunk = d["context"], d["chunk"]
    pairs = chunk * context + chunk * (chunk + 1) / 2
    return _latent(kind, d, pairs, chunk, context + chunk)


def _latent_decode(kind: KernelKind, d: Columns) -> Work:
    visible = d["context"] + 1
    return _latent(kind, d, visible, np.ones_like(visible), visible)


def _latent(kind: KernelKind, d: Columns, pairs: Floats, queries: Floats, visible: Floats) -> Work:
    per_head = 2 * d["rank"] + d["rope_dim"]
    kv = (d["rank"] + d["rope_dim"]) * bytes_per_element(kind.kv_dtype)
    moved = ACTIVATION_BYTES * queries * d["heads"] * per_head + kv * visible
    return Work(d["batch"] * 2 * pairs * d["heads"] * per_head, d["batch"] * moved)


def _delta_prefill(kind: KernelKind, d: Columns) -> Work:
    return _delta(kind, d, d["chunk"])


def _delta_decode(kind: KernelKind, d: Columns) -> Work:
    return _delta(kind, d, np.ones_like(d["batch"]))


def _delta(kind: KernelKind, d: Columns, tokens: Floats) -> Work:
    """Each head's matrix in and out, and each token's decay, correction and reading of it."""
    width = (2 * d["heads"] + 2 * d["kv_heads"]) * d["head_dim"]
    matrices = d["heads"] * d["head_dim"] ** 2
    moved = 2 * matrices * bytes_per_element(kind.kv_dtype) + ACTIVATION_BYTES * tokens * width
    return Work(d["batch"] * tokens * 6 * matrices, d["batch"] * moved)


def _elementwise(flops: float, passes: float) -> Callable[[KernelKind, Columns], Work]:
    """``flops`` and two-byte ``passes`` over memory per number of a row of ``width``."""

    def work(kind: KernelKind, d: Columns) -> Work:
        numbers = d["rows"] * d["width"]
        return Work(flops * numbers, passes * ACTIVATION_BYTES * numbers)

    return work


def _norm(kind: KernelKind, d: Columns) -> Work:
    numbers = d["rows"] * d["per_row"] * d["width"]
    passes = np.where(d["residual"] > 0, 4, 2)
    return Work(4 * numbers, ACTIVATION_BYTES * (passes * numbers + d["width"]))


def _rope(kind: KernelKind, d: Columns) -> Work:
    numbers = d["rows"] * d["heads"] * d["rotary_dim"]
    return Work(3 * numbers, 2 * ACTIVATION_BYTES * numbers)


def _embedding(kind: KernelKind, d: Columns) -> Work:
    numbers = d["rows"] * d["width"]
    return Work(0 * numbers, 2 * bytes_per_element(kind.dtype) * numbers)


def _router(kind: KernelKind, d: Columns) -> Work:
    rows, hidden, experts = (d[x] for x in ("rows", "hidden", "experts"))
    moved = bytes_per_element(kind.dtype) * (hidden * experts + rows * (hidden + experts))
    return Work(2 * rows * hidden * experts, moved)


def _kv_write(kind: KernelKind, d: Columns) -> Work:
    numbers = d["rows"] * d["width"]
    return Work(0 * numbers, numbers * (bytes_per_element(kind.kv_dtype) + ACTIVATION_BYTES))


def _sample(kind: KernelKind, d: Columns) -> Work:
    numbers = d["rows"] * d["vocab"]
    return Work(4 * numbers, 2 * 4 * numbers)


def _collective(kind: KernelKind, d: Columns) -> Work:
    """Bytes each GPU must send: ring lower bounds (Chan et al. 2007, section 4), nccl-tests' sizes."""
    degree, payload = d["degree"], d["payload_bytes"]
    share = {
        "all_reduce": 2 * (degree - 1) / degree,
        "send": np.ones_like(degree),
    }.get(kind.kernel, (degree - 1) / degree)
    return Work(0 * payload, share * payload)


# Their operands were written by the kernel before: they may still be in L2.
THROUGH_CACHE = frozenset(
    {"rms_norm", "layer_norm", "rope", "add", "embedding", "kv_write", "sample"}
) | {a.value for a in ActivationKind}

_GATED, _PLAIN = _elementwise(4, 3), _elementwise(4, 2)
WORK: dict[str, Callable[[KernelKind, Columns], Work]] = {
    "linear": _linear,
    "experts": _experts,
    "experts_skewed": _experts,
    "router": _router,
    "attention_prefill": _prefill,
    "attention_decode": _decode,
    "attention_decode_skewed": _skewed_decode,
    "attention_mixed": _mixed,
    "latent_prefill": _latent_prefill,
    "latent_decode": _latent_decode,
    "delta_prefill": _delta_prefill,
    "delta_decode": _delta_decode,
    "rms_norm": _norm,
    "layer_norm": _norm,
    "rope": _rope,
    "add": _elementwise(1, 3),
    "embedding": _embedding,
    "kv_write": _kv_write,
    "sample": _sample,
    **{a.value: _GATED if a.gated else _PLAIN for a in ActivationKind},
    **dict.fromkeys(COLLECTIVES, _collective),
}


def work_of(kind: KernelKind, dims: Dims) -> Work:
    return WORK[kind.kernel](kind, {name: d.astype(np.float64) for name, d in dims.items()})


def compute_peak(sku: Sku, dtype: str) -> float:
    """Dense FLOP/s of the tensor cores for weights of ``dtype``.

    Weights in a format that the GPU does not multiply in are widened to bf16 first.
    """
    names = {"fp8_block": "fp8", "mxfp4": "bf16", "fp16": "bf16"}
    native = sku.peak(names.get(dtype, dtype))
    widened = sku.peak("bf16")
    if native is None and widened is None:
        raise ValueError(f"{sku.name}: the datasheet has no peak for {dtype} nor for bf16")
    return max(p for p in (native, widened) if p is not None) if native is None else native


def bandwidth(sku: Sku, kernel: str) -> float:
    """Bytes per second of what a kernel's bytes go through."""
    return sku.link_bytes_per_s if kernel in COLLECTIVES else sku.bandwidth_bytes_per_s


def shortest_s(sku: Sku, kind: KernelKind, dims: Dims) -> Floats:
    """No launch can take less; [cases]."""
    work = work_of(kind, dims)
    return np.maximum(
        _fewest_flops(kind, dims, work) / compute_peak(sku, kind.dtype),
        _fewest_bytes(kind, dims, work) / bandwidth(sku, kind.kernel),
    )


def _fewest_flops(kind: KernelKind, dims: Dims, work: Work) -> Floats:
    """Latent prefill may expand keys and values, whose heads are narrower than the absorbed ones."""
    if kind.kernel != "latent_prefill":
        return work.flops
    absorbed = 2 * dims["rank"] + dims["rope_dim"]
    expanded = dims["nope_dim"] + dims["rope_dim"] + dims["value_dim"]
    return work.flops * np.minimum(absorbed, expanded) / absorbed


def _fewest_bytes(kind: KernelKind, dims: Dims, work: Work) -> Floats:
    """Where the count is an expectation or one algorithm's, what no routing and no algorithm undercuts."""
    if kind.kernel.startswith("delta"):  # small states stay in L2 from step to step
        return np.zeros_like(work.num_bytes)
    if kind.kernel.startswith("experts"):  # all rows may go to one row's experts, or elsewhere
        matrices = 3.0 * dims["hidden"] * dims["intermediate"] * bytes_per_element(kind.dtype)
        return np.where(dims["experts"] == dims["total_experts"], dims["top_k"] * matrices, 0.0)
    if kind.kernel in THROUGH_CACHE:
        return np.zeros_like(work.num_bytes)
    if kind.kernel == "all_reduce":  # a switch that adds (NVLink SHARP) takes each byte once
        return np.asarray(dims["payload_bytes"], dtype=np.float64)
    return work.num_bytes
