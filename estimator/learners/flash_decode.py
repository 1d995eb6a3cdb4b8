"""How FlashAttention spreads decodes over a GPU: blocks of thread groups, and splits of the keys among them.

A block takes the queries of one key head, 64 at most, where heads share keys and nothing is cut by a window;
then keys are split until the blocks fill the multiprocessors. Else a block takes one head and all its keys.

SOURCE: `mha_varlen_fwd` and `num_splits_heuristic` of flash-attention 2 (csrc/flash_attn/flash_api.cpp).
"""

from __future__ import annotations

import numpy as np

from servecast.estimator.measurement import Floats

QUERIES = 64  # of a block
KEYS = ((64, 256.0), (128, 128.0))  # of a block, up to so wide heads; else the following
KEYS_WIDE = 64.0
BLOCKS_AT_ONCE = 2  # on a multiprocessor
MOST_SPLITS = 128
FULL = 0.8  # of the blocks that run at once: nothing is split from here on
GOOD_ENOUGH = 0.85  # of the best use of waves: the fewest splits that reach it are taken


def decode_columns(attention: dict[str, Floats], num_sms: int) -> dict[str, Floats]:
    """Columns [cases] from those of attention, among which ``visible`` are the keys of one sequence.
    ``swept`` are the numbers of keys that all blocks read, each head its own where heads stand alone.
    """
    batch, heads, kv_heads = (attention[x] for x in ("batch", "heads", "kv_heads"))
    group = heads / kv_heads
    packed = batch * kv_heads * np.ceil(group / QUERIES)
    window = attention.get("window", np.zeros_like(batch))
    alone = (group == 1) | (window > 0)
    blocks = np.where(alone, batch * heads, packed)
    width = attention.get("head_dim", np.full_like(batch, KEYS[-1][0]))
    keys = np.select([width <= most for most, _ in KEYS], [n for _, n in KEYS], KEYS_WIDE)
    parts = np.ceil(attention["visible"] / keys)
    splits = np.where(alone, 1.0, splits_of(blocks, parts, BLOCKS_AT_ONCE * num_sms))
    keys_of_block = np.ceil(parts / splits) * keys
    waves, split_waves = packed / num_sms, blocks * splits / num_sms
    rounds = np.ceil(split_waves / BLOCKS_AT_ONCE)
    return {
        "packed_blocks": packed,
        "packed_wave_use": waves / np.ceil(waves),
        "keys_a_packed_wave": attention["visible"] * np.ceil(waves),
        "alone": alone.astype(np.float64),
        "splits": splits,
        "split_blocks": blocks * splits,
        "split_wave_use": split_waves / np.ceil(split_waves),
        "keys_of_block": keys_of_block,
        "keys_a_wave": keys_of_block * rounds,
        "swept": blocks * parts * keys * width,
    }


def splits_of(blocks: Floats, parts: Floats, at_once: int) -> Floats:
    """Into how many the ``parts`` [cases] of the keys are split, of ``blocks`` [cases] without splits, where
    ``at_once`` run.
    """
    cases, case = np.unique(np.stack([blocks, parts], axis=1), axis=0, return_inverse=True)
    of_blocks, of_parts = cases[:, :1], cases[:, 1:]
    splits = np.arange(1, MOST_SPLITS + 1)
    longest = np.ceil(of_parts / splits)
    shorter = np.diff(longest, axis=1, prepend=np.inf) != 0  # else one more split shortens nothing
    waves = of_blocks * splits / at_once
    use = np.where(shorter & (splits <= np.minimum(of_parts, at_once)), waves / np.ceil(waves), 0.0)
    first = np.argmax(use >= GOOD_ENOUGH * use.max(axis=1, keepdims=True), axis=1)
    found = np.where(of_blocks[:, 0] >= FULL * at_once, 1, splits[first])
    return found[case.reshape(-1)].astype(np.float64)
