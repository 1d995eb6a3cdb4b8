"""Quantised weights as they lie in memory, and what makes numbers of them again.

All are [matrices, out_features, in_features]; codes are random over all bits, scales random and positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from servecast.agent.kernels.buffers import Buffers

BLOCK = 128  # side of the square of fp8_block that shares a scale (DeepSeek-V3, section 3.3)
NVFP4_GROUP, MXFP4_GROUP = 16, 32  # numbers of a row that share a scale
INT4_GROUPS = (32, 64, 128, 256)
INT4_ZERO = 8  # the middle of 0 to 15
SMALLEST_NVFP4_SCALE = 2.0**-5  # finer ones lose bits in e4m3; a scale per tensor does the rest
E8M0_BIAS = 127  # a scale of code c is 2^(c - 127) (OCP MX, version 1.0, section 5.4.1)
# The numbers of e2m1 by their code: sign, two bits of exponent, one of mantissa.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Widen = Callable[[torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]
"""Numbers of a dtype [matrices, out, in] from codes and scales."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """``codes`` [matrices, out, in], or in / 2 bytes of two 4-bit codes, the first in the low half."""

    codes: torch.Tensor
    scales: torch.Tensor

    def of(self, matrices: torch.Tensor) -> Quantised:
        """Those of some matrices alone."""
        return Quantised(self.codes[matrices], self.scales[matrices])


def drawn(name: str, size: tuple[int, int, int], buffers: Buffers) -> Quantised:
    """Random weights of a format, whose numbers are about as large as the inverse root of in_features."""
    matrices, outer, inner = size
    scale = inner**-0.5
    if name == "fp8":
        return Quantised(_fp8(size, buffers), _positive((matrices, 1, 1), scale, buffers))
    if name == "fp8_block":
        squares = (matrices, -(-outer // BLOCK), -(-inner // BLOCK))
        return Quantised(_fp8(size, buffers), _positive(squares, scale, buffers))
    if name == "int8":
        codes = buffers.normal(*size, dtype=torch.int8)
        return Quantised(codes, _positive((matrices, outer, 1), scale / 32, buffers))
    group = group_of(name)
    codes = buffers.normal(matrices, outer, inner // 2, dtype=torch.int8).view(torch.uint8)
    groups = (matrices, outer, -(-inner // group))
    if name == "mxfp4":
        small = buffers.integers(*groups, below=3, dtype=torch.uint8)
        return Quantised(codes, small + int(E8M0_BIAS - 4 - inner.bit_length() // 2))
    if name == "nvfp4":
        scales = _positive(groups, max(scale, SMALLEST_NVFP4_SCALE), buffers)
        return Quantised(codes, scales.to(torch.float8_e4m3fn))
    return Quantised(codes, _positive(groups, scale / 4, buffers))


def group_of(name: str) -> int:
    """Numbers of a row that share a scale, of a format of 4 bits."""
    named = {"nvfp4": NVFP4_GROUP, "mxfp4": MXFP4_GROUP}
    return named.get(name) or int(name.removeprefix("int4_g"))


def _fp8(size: tuple[int, int, int], buffers: Buffers) -> torch.Tensor:
    return buffers.normal(*size, dtype=torch.float8_e4m3fn)


def _positive(size: tuple[int, int, int], scale: float, buffers: Buffers) -> torch.Tensor:
    """bf16, between half of ``scale`` and somewhat more than it."""
    noise = buffers.normal(*size, dtype=torch.bfloat16)
    return noise.abs().add(0.5).mul(scale)


def from_e2m1(packed: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """[..., 2 * bytes] of bytes with the first number in their low half."""
    values = torch.tensor((*E2M1, *(-value for value in E2M1)), device=packed.device, dtype=dtype)
    return values[halves(packed).int()]


def halves(packed: torch.Tensor) -> torch.Tensor:
    """4-bit codes [..., 2 * bytes], low half first."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def _by_row(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """One scale for a matrix or for each of its rows: it spreads by itself."""
    return codes.to(dtype) * scales.to(dtype)


def _by_square(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    wide = scales.to(dtype).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return codes.to(dtype) * wide[:, : codes.shape[1], : codes.shape[2]]


def _by_group(numbers: torch.Tensor, scales: torch.Tensor, group: int) -> torch.Tensor:
    """The last group of a row may be short."""
    width = numbers.shape[-1]
    if width % group:
        return numbers * scales.repeat_interleave(group, -1)[..., :width]
    grouped = numbers.view(*numbers.shape[:-1], -1, group)
    return (grouped * scales[..., None]).flatten(-2)


def _nvfp4(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _by_group(from_e2m1(codes, dtype), scales.to(dtype), NVFP4_GROUP)


def _mxfp4(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    powers = torch.exp2(scales.to(dtype) - E8M0_BIAS)
    return _by_group(from_e2m1(codes, dtype), powers, MXFP4_GROUP)


def _int4(
    group: int, codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return _by_group(halves(codes).to(dtype) - INT4_ZERO, scales.to(dtype), group)


WIDEN: dict[str, Widen] = {
    "fp8": _by_row,
    "fp8_block": _by_square,
    "int8": _by_row,
    "nvfp4": _nvfp4,
    "mxfp4": _mxfp4,
    **{f"int4_g{group}": partial(_int4, group) for group in INT4_GROUPS},
}
