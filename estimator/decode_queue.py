"""How long a GPU works off decodes of unequal lengths that FlashAttention 2 cuts into blocks.

A block holds the queries of one key head and walks along that head's cached keys, or along an even split
of them. Blocks wait in order, one runs on a multiprocessor at a time (each takes 80 KiB of shared memory, of
which Ada and consumer Blackwell have 100), and those that run share the memory's bandwidth. SATURATING blocks
use all of it: while fewer are left, at the end of the launch, the rest of it lies idle. So a long sequence
in a batch too large to be split keeps the others waiting.

SOURCE: flash-attention 2, csrc/flash_attn/src/flash_fwd_launch_template.h (the grid of
``run_flash_splitkv_fwd``) and flash_fwd_kernel.h (``n_blocks_per_split``).
"""

from __future__ import annotations

from functools import lru_cache
from heapq import heapify, heapreplace

import numpy as np

from servecast.estimator.learners.flash_decode import BLOCKS_AT_ONCE, splits_of
from servecast.estimator.measurement import Floats

KEYS = 128.0  # of a block's step, for heads up to so wide
SATURATING = 50
"""Of an RTX 4090 and an RTX PRO 6000 alike: ``benchmarks/decode_queue.py`` prints how far off all lengths
that LLMServingSim swept are with this and with other numbers."""
DRAWS = 32
TYPICAL = 1024.0  # tokens of a sequence; a queue of longer ones has much the same shape


def queue_tokens(lengths: Floats, kv_heads: int, num_sms: int) -> float:
    """Keys of one head that memory could read while sequences of ``lengths``, in this order, are decoded."""
    work = _blocks(lengths, kv_heads, num_sms)
    ends = work  # all that run are equally fast: of each, what one block does until then
    if len(work) > num_sms:
        queue = work[:num_sms].tolist()
        heapify(queue)
        for block in work[num_sms:].tolist():
            heapreplace(queue, queue[0] + block)
        ends = np.array(queue)
    latest = np.sort(ends)[::-1][:SATURATING]
    idle = np.sum(latest[0] - latest) + (SATURATING - len(latest)) * latest[0]
    return float(work.sum() + idle)


def _blocks(lengths: Floats, kv_heads: int, num_sms: int) -> Floats:
    """Keys of each block, in the order of the launch."""
    parts = np.ceil(lengths.max(keepdims=True) / KEYS)
    blocks = np.array([float(len(lengths) * kv_heads)])
    splits = int(splits_of(blocks, parts, BLOCKS_AT_ONCE * num_sms)[0])
    if splits == 1:
        return np.tile(lengths, kv_heads)
    share = np.ceil(np.ceil(lengths / KEYS) / splits)[:, None] * KEYS
    cut = np.clip(lengths[:, None] - share * np.arange(splits), 0, share)
    work = np.repeat(cut[:, None, :], kv_heads, axis=1).ravel()
    return np.asarray(work[work > 0], dtype=np.float64)


def longest_in(batches: tuple[int, ...], drawn: tuple[float, ...]) -> Floats:
    """[batches]: how much longer than its mean a batch's longest sequence is expected to be, in means."""
    lengths = _lengths(max(batches), drawn)
    found = [
        np.mean(each.max(axis=1) / each.mean(axis=1)) for each in (lengths[:, :b] for b in batches)
    ]
    return np.array(found) - 1


def _lengths(most: int, drawn: tuple[float, ...]) -> Floats:
    """[DRAWS, most]: a larger batch is a smaller one with more sequences."""
    return TYPICAL * np.random.default_rng(0).choice(np.array(drawn), size=(DRAWS, most))


@lru_cache(maxsize=32)
def longer_by_queue(
    batches: tuple[int, ...], drawn: tuple[float, ...], kv_heads: int, num_sms: int
) -> Floats:
    """Factors [batches] of what sequences drawn from quantiles of equal weight take beyond as many of their
    own mean.
    """
    lengths = _lengths(max(batches), drawn)
    return np.array([_longer(lengths[:, :batch], kv_heads, num_sms) for batch in batches])


def _longer(lengths: Floats, kv_heads: int, num_sms: int) -> float:
    equal = queue_tokens(np.full(lengths.shape[1], TYPICAL), kv_heads, num_sms) / TYPICAL
    found = [queue_tokens(each, kv_heads, num_sms) / each.mean() for each in lengths]
    return float(np.mean(found) / equal)
