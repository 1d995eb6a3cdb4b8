"""Linear attention by the gated delta rule behind a short convolution: prompts in pieces, or one token.

Gated DeltaNet, arXiv 2412.06464: section 3.1 the rule, section 3.3 its form for pieces. A sequence's state
is a matrix a head in fp32, found cold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Capability, Formats, Kernel, Prepared, Shape

PIECE = 64  # tokens that are multiplied together, as in flash-linear-attention's kernels
CONV_WIDTH = 4  # tokens that the convolution sees, in every model that has it
DIMS = ("heads", "kv_heads", "head_dim", "batch")


@dataclass(frozen=True, slots=True)
class Layer:
    """Inputs of a launch. rows [batch, channels, CONV_WIDTH - 1 + tokens]: queries, keys, values, the tokens
    that the convolution still sees before them; filter [channels, CONV_WIDTH]; decay (a logarithm) and rate
    [batch, heads, tokens] in fp32.
    """

    shape: Shape
    rows: torch.Tensor
    filter: torch.Tensor
    decay: torch.Tensor
    rate: torch.Tensor

    def double(self) -> Layer:
        return Layer(
            self.shape,
            *(part.double() for part in (self.rows, self.filter, self.decay, self.rate)),
        )


def prepare_prefill(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each ``chunk`` new tokens."""
    return _prepare(shape, buffers, shape["chunk"])


def prepare_decode(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each one token."""
    return _prepare(shape, buffers, 1)


def _prepare(shape: Shape, buffers: Buffers, tokens: int) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    batch, heads, width = shape["batch"], shape["heads"], shape["head_dim"]
    layer = _layer(shape, buffers, tokens)
    size = batch * heads * width * width
    copies = buffers.copies(size * torch.float32.itemsize)
    buffers.reserve(copies * size * 4 + 12 * layer.rows.numel() * 4)
    drawn = (buffers.normal(batch, heads, width, width, dtype=torch.float32) for _ in range(copies))
    states = [state * 0.1 for state in drawn]  # own ones: a launch writes to them
    launch = _decoded if tokens == 1 else _prefilled
    return Prepared(
        launches=tuple(partial(launch, layer, state) for state in states),
        reference=lambda: token_by_token(layer.double(), states[0].double()),
        tolerance=2 * TOLERANCE[dtype],  # a convolution's output is rounded on the way
    )


def _layer(shape: Shape, buffers: Buffers, tokens: int) -> Layer:
    dtype, batch, heads = TORCH_DTYPES[shape.dtype], shape["batch"], shape["heads"]
    channels = (heads + 2 * shape["kv_heads"]) * shape["head_dim"]
    noise = [buffers.normal(batch, heads, tokens, dtype=torch.float32) for _ in range(2)]
    return Layer(
        shape=shape,
        rows=buffers.normal(batch, channels, CONV_WIDTH - 1 + tokens, dtype=dtype),
        filter=buffers.normal(channels, CONV_WIDTH, dtype=dtype),
        decay=-0.1 * noise[0].abs(),
        rate=noise[1].sigmoid(),
    )


def _inputs(layer: Layer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v [batch, heads, tokens, head_dim], convolved, in fp32 or wider; q and k of length one."""
    seen = functional.conv1d(layer.rows, layer.filter[:, None], groups=len(layer.filter))
    wide = torch.promote_types(layer.rows.dtype, torch.float32)
    mixed = functional.silu(seen).to(wide).transpose(1, 2)
    heads, key_heads, width = (layer.shape[name] for name in ("heads", "kv_heads", "head_dim"))
    q, k, v = torch.split(mixed, [key_heads * width, key_heads * width, heads * width], dim=-1)
    q, k = (
        functional.normalize(part.reshape(*part.shape[:2], key_heads, width), dim=-1)
        .transpose(1, 2)
        .repeat_interleave(heads // key_heads, 1)
        for part in (q, k)
    )
    return q * width**-0.5, k, v.reshape(*v.shape[:2], heads, width).transpose(1, 2)


def token_by_token(layer: Layer, state: torch.Tensor) -> torch.Tensor:
    """The rule as it is defined; the state [batch, heads, keys, values] is left alone."""
    q, k, v = _inputs(layer)
    out = torch.empty_like(v)
    for t in range(v.shape[2]):
        state = state * layer.decay[:, :, t, None, None].exp()
        wrong = v[:, :, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, :, t])
        step = wrong * layer.rate[:, :, t, None]
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, :, t], step)
        out[:, :, t] = torch.einsum("bhkv,bhk->bhv", state, q[:, :, t])
    return out


def _decoded(layer: Layer, state: torch.Tensor) -> torch.Tensor:
    """One token each; the state is updated in place."""
    q, k, v = _inputs(layer)
    state *= layer.decay[..., None].exp()
    step = (v - k @ state) * layer.rate[..., None]
    state += k.transpose(2, 3) @ step
    return q @ state


def _prefilled(layer: Layer, state: torch.Tensor) -> torch.Tensor:
    """Piece by piece: within one all tokens at once, between them the state, which is updated in place."""
    q, k, v = _inputs(layer)
    parts = [torch.split(part, PIECE, dim=2) for part in (q, k, v, layer.decay, layer.rate)]
    return torch.cat([_piece(state, *some) for some in zip(*parts, strict=True)], dim=2)


def _piece(  # the rule's own variables
    state: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    decay: torch.Tensor,
    rate: torch.Tensor,
) -> torch.Tensor:
    """What every token would correct if it saw the tokens before it in the piece (the WY form)."""
    so_far = decay.cumsum(-1)
    between = (so_far[..., :, None] - so_far[..., None, :]).tril().exp().tril()
    before = ((k * rate[..., None]) @ k.transpose(2, 3) * between).tril(-1)
    given = torch.cat((v, k * so_far[..., None].exp()), dim=-1) * rate[..., None]
    solved = torch.linalg.solve_triangular(before, given, upper=False, unitriangular=True)
    own, of_state = torch.split(solved, [v.shape[-1], k.shape[-1]], dim=-1)
    new = own - of_state @ state
    out = (q * so_far[..., None].exp()) @ state + (q @ k.transpose(2, 3) * between) @ new
    last = so_far[..., -1:, None]
    state *= last.exp()
    state += (k * (last - so_far[..., None]).exp()).transpose(2, 3) @ new
    return out


def formats(capability: Capability) -> Formats:
    """The state is fp32 whatever the rows are."""
    del capability
    return tuple((dtype, "fp32") for dtype in ("bf16", "fp16", "fp32"))


PREFILL = Kernel((*DIMS, "chunk"), prepare_prefill, formats)
DECODE = Kernel(DIMS, prepare_decode, formats)
