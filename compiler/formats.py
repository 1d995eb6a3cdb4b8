"""Number formats: their bits, and the bits of the scales that blocks of them share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are held: their bits, and the bits of the scale that a block of them shares."""

    name: str
    bits: int
    scale_bits: int = 0
    scale_elements: int = 1
    block_side: int | None = None  # of the square of a matrix that shares a scale, where it is one

    def num_bytes(self, elements: int) -> int:
        """Bytes of ``elements`` numbers with their scales, rounded up."""
        scales = -(-elements // self.scale_elements) if self.scale_bits else 0
        return -(-(elements * self.bits + scales * self.scale_bits) // 8)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix with its scales; squares at its edges have a scale of their own."""
        if self.block_side is None:
            return self.num_bytes(rows * columns)
        squares = -(-rows // self.block_side) * -(-columns // self.block_side)
        return -(-(rows * columns * self.bits + squares * self.scale_bits) // 8)


FP32 = Format("fp32", 32)

BF16 = Format("bf16", 16)

FP16 = Format("fp16", 16)

FP8 = Format("fp8", 8)

INT8 = Format("int8", 8)

FP8_BLOCK = Format("fp8_block", 8, scale_bits=32, scale_elements=128 * 128, block_side=128)

NVFP4 = Format("nvfp4", 4, scale_bits=8, scale_elements=16)

MXFP4 = Format("mxfp4", 4, scale_bits=8, scale_elements=32)

FORMATS = {f.name: f for f in (FP32, BF16, FP16, FP8, INT8, FP8_BLOCK, NVFP4, MXFP4)}


def int4(group: int) -> Format:
    """Weight-only INT4 with an fp16 scale per ``group`` weights (AWQ, GPTQ)."""
    return Format(f"int4_g{group}", 4, scale_bits=16, scale_elements=group)
