"""Block hashes of a workload's prompts as the engine takes them: numbers, equal where the prefixes are.

A trace's hash covers a block size of its own, 512 tokens in Mooncake's. Blocks that no other prompt has need
none: only their own request, preempted, can find them again, and so the cache just counts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.workload import Ints, PrefixBlocks, Workload


@dataclass(frozen=True, slots=True, eq=False)
class PrefixPath:
    """Block k of a prompt has the hash ``numbers[begin + k // blocks_per_number]`` and ``k`` modulo that.

    Arrays of shape [requests] but ``numbers``.
    """

    numbers: NDArray[np.int32]
    blocks_per_number: int
    begin: Ints
    num_blocks: Ints  # full blocks, from the prompt's beginning, that another prompt has, too


def prefix_path(workload: Workload, block_tokens: int) -> PrefixPath:
    """Of the whole workload; without hashes no two prompts have a block in common.

    Raises:
        UserError: neither block size is a multiple of the other.
    """
    prefix = workload.prefix
    if prefix is None:
        none = np.zeros(len(workload), np.int64)
        return PrefixPath(np.zeros(1, np.int32), 1, none, none)
    theirs = prefix.block_tokens
    if len(prefix.ids) * max(theirs // block_tokens, 1) >= 2**31:
        raise UserError(
            f"{workload.name}: the prompts have 2**31 blocks of {block_tokens} tokens or more"
        )
    full = workload.prompt_tokens // block_tokens
    numbers, sizes = chained(prefix)
    if theirs % block_tokens == 0:
        each = theirs // block_tokens
        num_blocks = np.minimum(full, sizes * each)
        return PrefixPath(numbers.astype(np.int32), each, prefix.offsets[:-1], num_blocks)
    if block_tokens % theirs:
        raise UserError(
            f"{workload.name}: block_tokens {block_tokens} and the trace's block hashes of {theirs} tokens: "
            "one must be a multiple of the other for prefix_caching"
        )
    each = block_tokens // theirs
    num_blocks = np.minimum(full, sizes // each)
    ends = np.cumsum(num_blocks)
    begin = ends - num_blocks
    within = np.arange(int(ends[-1])) - np.repeat(begin, num_blocks)
    lasts = np.repeat(prefix.offsets[:-1], num_blocks) + (within + 1) * each - 1
    return PrefixPath(numbers[lasts].astype(np.int32), 1, begin, num_blocks)


def chained(prefix: PrefixBlocks) -> tuple[Ints, Ints]:
    """For each block the place in ``ids`` where its prefix, itself included, stands first; and with how many
    of its blocks each prompt begins as another does. Level by level."""
    ids = np.unique(prefix.ids, return_inverse=True)[1]
    sizes, begin = np.diff(prefix.offsets), prefix.offsets[:-1]
    numbers, shared = np.arange(len(ids)), np.zeros(len(sizes), np.int64)
    prompts = np.flatnonzero(sizes > 0)
    before = np.zeros(len(sizes), np.int64)  # the number of the block before
    depth = 0
    while len(prompts):
        at = begin[prompts] + depth
        _, first, group, count = np.unique(
            before[prompts] * len(ids) + ids[at],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        numbers[at] = before[prompts] = at[first][group]
        depth += 1
        prompts = prompts[count[group] > 1]
        shared[prompts] = depth
        prompts = prompts[sizes[prompts] > depth]
    return numbers, shared


def prefix_blocks(prompts: list[list[int]], block_tokens: int) -> PrefixBlocks:
    """The full blocks of prompts that are given token by token."""
    known: dict[tuple[int, ...], int] = {}
    ids: list[int] = []
    offsets = [0]
    for tokens in prompts:
        for k in range(0, len(tokens) - block_tokens + 1, block_tokens):
            ids.append(known.setdefault(tuple(tokens[k : k + block_tokens]), len(known)))
        offsets.append(len(ids))
    return PrefixBlocks(block_tokens, np.array(offsets), np.array(ids, np.int64))
