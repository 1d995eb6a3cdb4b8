"""Plans carried out in numpy: every parallelism computes what a single rank computes.

The ranks of a stage run in step, each on its slices of the same random weights. Rotary embedding and
the cache's writing do not matter here and are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from servecast.compiler.attention import Attention
from servecast.compiler.catalog import compile_text
from servecast.compiler.ir import (
    Activation,
    Add,
    Collective,
    CollectiveKind,
    Embedding,
    Linear,
    Norm,
)
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Call, Parallelism

Rows = NDArray[np.float64]
TOKENS, HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCAB = 8, 16, 4, 2, 4, 24, 40
SPEC = f"""
model "m" {{
    context 64
    embedding {VOCAB} -> {HIDDEN}
    repeat 3 {{
        residual {{
            rms_norm {HIDDEN}
            linear {HIDDEN} -> {(HEADS + 2 * KV_HEADS) * HEAD}  split columns by {KV_HEADS}
            attention {HEADS}/{KV_HEADS} x {HEAD}
            linear {HEADS * HEAD} -> {HIDDEN}  split rows
        }}
        residual {{
            rms_norm {HIDDEN}
            linear {HIDDEN} -> {2 * FFN}  split columns
            swiglu {FFN}
            linear {FFN} -> {HIDDEN}  split rows
        }}
    }}
    rms_norm {HIDDEN}
    linear {HIDDEN} -> {VOCAB}  split columns  at last_token
}}
"""
PROGRAM = compile_text(SPEC, "m.llm").model()
IDS = np.arange(TOKENS) * 5 % VOCAB


def whole(layer: int, name: str, shape: tuple[int, int]) -> Rows:
    """The same weights for every parallelism."""
    rng = np.random.default_rng([layer, *name.encode()])
    return rng.normal(size=shape) / np.sqrt(shape[0])


def part(array: Rows, rank: int, tp: int, axis: int) -> Rows:
    return np.split(array, tp, axis=axis)[rank]


def qkv_weight(layer: int, rank: int, tp: int) -> Rows:
    """A rank's query heads, and the KV heads that they share."""
    q = part(whole(layer, "q", (HIDDEN, HEADS * HEAD)), rank, tp, axis=1)
    held, group = max(1, KV_HEADS // tp), rank * KV_HEADS // tp
    kv = [
        whole(layer, name, (HIDDEN, KV_HEADS * HEAD))[:, group * HEAD : (group + held) * HEAD]
        for name in ("k", "v")
    ]
    return np.concatenate([q, *kv], axis=1)


def linear_weight(layer: int, call: Call, rank: int, tp: int) -> Rows:
    match call.name:
        case "qkv_proj":
            return qkv_weight(layer, rank, tp)
        case "o_proj":
            return part(whole(layer, "o", (HEADS * HEAD, HIDDEN)), rank, tp, axis=0)
        case "gate_up_proj":
            halves = [whole(layer, name, (HIDDEN, FFN)) for name in ("gate", "up")]
            return np.concatenate([part(half, rank, tp, axis=1) for half in halves], axis=1)
        case "down_proj":
            return part(whole(layer, "down", (FFN, HIDDEN)), rank, tp, axis=0)
        case _:
            return part(whole(0, "head", (HIDDEN, VOCAB)), rank, tp, axis=1)


@dataclass
class Rank:
    """What one rank holds between launches: the row of each token, and the residual stream."""

    number: int
    x: Rows = field(default_factory=lambda: np.zeros((TOKENS, HIDDEN)))
    residual: Rows = field(default_factory=lambda: np.zeros((TOKENS, HIDDEN)))


def normalised(x: Rows) -> Rows:
    return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6))


def attended(op: Attention, x: Rows) -> Rows:
    q, k, v = np.split(x, [op.heads * HEAD, (op.heads + op.kv_heads) * HEAD], axis=1)
    future = np.triu(np.full((TOKENS, TOKENS), -np.inf), k=1)
    heads = []
    for i in range(op.heads):
        j = i * op.kv_heads // op.heads
        keys, values = (a[:, j * HEAD : (j + 1) * HEAD] for a in (k, v))
        scores = np.exp(q[:, i * HEAD : (i + 1) * HEAD] @ keys.T + future)
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ values)
    return np.concatenate(heads, axis=1)


def launch(call: Call, layer: int, rank: Rank, tp: int) -> None:
    match call.op:
        case Embedding() as op:
            table = part(whole(0, "table", (VOCAB, HIDDEN)), rank.number, tp, axis=0)
            local = IDS - rank.number * op.vocab
            held = (local >= 0) & (local < op.vocab)
            rank.x = np.where(held[:, None], table[local % op.vocab], 0.0)
        case Norm(adds_residual=True):
            rank.residual = rank.residual[: len(rank.x)] + rank.x
            rank.x = normalised(rank.residual)
        case Linear():
            rank.x = rank.x @ linear_weight(layer, call, rank.number, tp)
        case Activation(width=width):
            gate, up = rank.x[:, :width], rank.x[:, width:]
            rank.x = gate / (1 + np.exp(-gate)) * up
        case Attention() as op:
            rank.x = attended(op, rank.x)
        case Add() | Norm():
            raise AssertionError("every addition of this model is part of a norm")


def meet(op: Collective, ranks: list[Rank]) -> None:
    rows = [rank.x for rank in ranks]
    for rank in ranks:
        match op.kind:
            case CollectiveKind.ALL_REDUCE:
                rank.x = np.sum(rows, axis=0)
            case CollectiveKind.REDUCE_SCATTER:
                rank.x = np.split(np.sum(rows, axis=0), len(ranks))[rank.number]
            case CollectiveKind.ALL_GATHER if op.elements == HIDDEN:
                rank.x = np.concatenate(rows)
            case CollectiveKind.ALL_GATHER:
                rank.x = np.concatenate(rows, axis=1)  # shares of the vocabulary
            case CollectiveKind.SEND:  # the stream goes on as one row
                rank.x = rank.x + rank.residual[: len(rank.x)]
                rank.residual = np.zeros((TOKENS, HIDDEN))


def logits(parallelism: Parallelism) -> list[Rows]:
    """What each rank of the last stage has before sampling."""
    ranks = [Rank(number) for number in range(parallelism.tp)]
    layer = 0
    for stage in shard(PROGRAM, parallelism).stages:
        for run in stage.runs:
            for _ in range(run.count):
                layer += run.name == "layer"
                for call in run.calls:
                    if isinstance(call.op, Collective):
                        meet(call.op, ranks)
                    else:
                        for rank in ranks:
                            launch(call, layer, rank, parallelism.tp)
    return [rank.x for rank in ranks]


def reference() -> Rows:
    """The model as one would write it down, with no plan at all."""
    x = whole(0, "table", (VOCAB, HIDDEN))[IDS]
    for layer in range(1, 4):
        row = normalised(x) @ qkv_weight(layer, 0, 1)
        row = attended(Attention(HEADS, KV_HEADS, HEAD), row)
        x = x + row @ whole(layer, "o", (HEADS * HEAD, HIDDEN))
        row = normalised(x)
        gate, up = (row @ whole(layer, name, (HIDDEN, FFN)) for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ whole(layer, "down", (FFN, HIDDEN))
    return np.asarray(normalised(x) @ whole(0, "head", (HIDDEN, VOCAB)))


@pytest.mark.parametrize("sequence", [False, True], ids=["", "sequence"])
@pytest.mark.parametrize("pp", [1, 2, 3])
@pytest.mark.parametrize("tp", [1, 2, 4])  # four ranks hold two KV heads twice
def test_every_parallelism_computes_the_model(tp: int, pp: int, sequence: bool) -> None:
    for rank in logits(Parallelism(tp=tp, pp=pp, sequence=sequence)):
        np.testing.assert_allclose(rank, reference(), rtol=1e-9)
