"""How much of each prompt an automatic prefix cache would hold, from the block hashes of a trace.

A property of the trace: the cache is one for all requests and sees them in arrival order, least recently used
block out first. What a replica's own cache holds depends on its time and memory: `prefix_cache.py`.

SOURCE: the rules for a hit are vLLM's, vllm/v1/core/kv_cache_manager.py, get_computed_blocks: whole blocks
from the beginning, never the last token.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.workload import Workload


def prefix_hits(workload: Workload, cache_tokens: float = float("inf")) -> NDArray[np.int64]:
    """Cached tokens of each prompt, shape [requests], fewer than it has.

    Raises:
        UserError: the workload does not say which prompts share a prefix.
    """
    prefix = workload.prefix
    if prefix is None:
        raise UserError(f"{workload.name}: prefix hits need a trace with the prompts' block hashes")
    hits = np.zeros(len(workload), np.int64)
    cache: OrderedDict[int, None] = OrderedDict()
    ids, offsets = prefix.ids.tolist(), prefix.offsets.tolist()
    for i in range(len(workload)):
        blocks = ids[offsets[i] : offsets[i + 1]]
        hit = next((n for n, block in enumerate(blocks) if block not in cache), len(blocks))
        hits[i] = min(hit, (int(workload.prompt_tokens[i]) - 1) // prefix.block_tokens)
        for block in reversed(blocks):  # the first is the last to go
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) * prefix.block_tokens > cache_tokens:
            cache.popitem(last=False)
    return hits * prefix.block_tokens
