"""What the tables of a placement must cover."""

from __future__ import annotations

from dataclasses import replace

from servecast.compiler.memory import plan_memory
from servecast.estimator.tables import TableBounds
from servecast.simulator.search.space import BLOCK_TOKENS, UTILISATION, Placement


def bounds(placement: Placement) -> TableBounds:
    """The largest step, batch, context and cache of any candidate.

    The cache's bound, and with it the grid, is that of the smallest limits: a configuration's times do
    not depend on which others are searched beside it.
    """
    limits = [candidate.limits for candidate in placement.candidates]
    memory = placement.sku.memory_bytes
    largest = plan_memory(placement.sharded, memory, UTILISATION, 1, 1, BLOCK_TOKENS)
    largest = replace(largest, sequence_tokens=placement.candidates[0].memory.sequence_tokens)
    blocks = max(largest.kv_blocks, *(each.kv_blocks for each in limits))
    return TableBounds(
        max_batched_tokens=max(each.max_batched_tokens for each in limits),
        max_num_seqs=max(each.max_num_seqs for each in limits),
        max_context_tokens=placement.sharded.context_tokens,
        kv_capacity_tokens=blocks * BLOCK_TOKENS,
    )
