"""Longer or shorter requests in the same traffic: every request keeps its place, its order and its prefix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.trace_fields import MAX_TOKENS
from servecast.simulator.traffic.workload import Ints, PrefixBlocks, Workload


def scaled(workload: Workload, prompt: float = 1.0, output: float = 1.0) -> Workload:
    """Lengths times a factor, rounded up: their order, and so their rank correlation, stays.

    Raises:
        UserError: a factor that is not above 0, or one that cuts the prompts' prefix blocks apart.
    """
    return replace(
        workload,
        prompt_tokens=_scaled(workload, workload.prompt_tokens, "prompt", prompt),
        output_tokens=_scaled(workload, workload.output_tokens, "output", output),
        prefix=workload.prefix and _scaled_blocks(workload, workload.prefix, prompt),
    )


def _scaled(workload: Workload, tokens: Ints, what: str, factor: float) -> Ints:
    if not 0 < factor <= MAX_TOKENS / int(tokens.max()):
        raise UserError(
            f"{workload.name}: {what} lengths cannot be scaled by {factor:g}; the factor is above 0, and "
            f"no request becomes longer than {MAX_TOKENS:,} tokens"
        )
    return np.asarray(np.ceil(np.round(tokens * factor, 6)), dtype=np.int64)


def _scaled_blocks(workload: Workload, prefix: PrefixBlocks, factor: float) -> PrefixBlocks:
    block_tokens = prefix.block_tokens * factor
    if block_tokens != round(block_tokens):
        raise UserError(
            f"{workload.name}: prompts share blocks of {prefix.block_tokens} tokens, which times "
            f"{factor:g} is no whole number of tokens"
        )
    return replace(prefix, block_tokens=round(block_tokens))
