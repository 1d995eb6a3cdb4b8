"""A small GPU, a small model, and measurements of its kernels by a known law."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from servecast.compiler.attention import Attention
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Collective, CollectiveKind, KvWrite, Linear
from servecast.compiler.sharded import Call, Parallelism, Rows, Run, ShardedProgram, Stage
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.predictor import Predictor
from servecast.estimator.sources import predictor_from
from servecast.estimator.store import Store

HIDDEN, LAYERS = 256, 2


@pytest.fixture(scope="session")
def gpu() -> Sku:
    """100 TFLOP/s, 1 TB/s, links of 100 GB/s."""
    return Sku(
        *("gpu", 80 * 10**9, 1e12, (("bf16", 100e12),), 8, "nvlink", 100e9, 10e9),
        *(100.0, 700.0, 2.0, "a test"),
    )


def small_model(tp: int = 1, pp: int = 1) -> ShardedProgram:
    """One projection, attention of four heads over two, and a head; ``pp`` stages of two layers."""
    layer = [
        Call("proj", Linear(HIDDEN, HIDDEN // tp)),
        Call("kv_write", KvWrite(2 * 2 * 64 // tp)),
        Call("attn", Attention(heads=4 // tp, kv_heads=2 // tp, head_dim=64)),
    ]
    if tp > 1:
        layer.append(Call("reduce", Collective(CollectiveKind.ALL_REDUCE, HIDDEN, tp)))
    head = Run("head", (Call("lm_head", Linear(HIDDEN, 1024 // tp), Rows.LAST_TOKENS),))
    send = Run("send", (Call("send", Collective(CollectiveKind.SEND, HIDDEN, 2, "pp")),))
    layers = Run("layers", tuple(layer), LAYERS)
    stages = [Stage(i, (layers, head if i == pp - 1 else send)) for i in range(pp)]
    return ShardedProgram("small", 4096, Parallelism(tp, pp), tuple(stages))


@pytest.fixture
def model() -> Callable[..., ShardedProgram]:
    return small_model


def linear_batch(sku: str = "gpu", slowness: float = 1.5) -> MeasurementBatch:
    """GEMMs on a grid, each ``slowness`` times its roofline and 3 us."""
    sizes = np.array([128, 256, 512, 1024])
    rows, k, n = (g.ravel() for g in np.meshgrid(2 ** np.arange(13), sizes, sizes))
    flops, moved = 2.0 * rows * k * n, 2.0 * (k * n + rows * (k + n))
    seconds = 3e-6 + slowness * np.maximum(flops / 100e12, moved / 1e12)
    return MeasurementBatch(
        *("linear", "bf16", "", sku, Origin("silicon", "a package", "1", "gemm", "MIT")),
        dims={"rows": rows, "in_features": k, "out_features": n},
        times_s={"mean_s": seconds},
    )


def decode_batch(sku: str = "gpu", heads: int = 4, kv_heads: int = 2) -> MeasurementBatch:
    """10 us and 1.5 ns for each cached token, for up to 4096 tokens in all."""
    batch, context = (g.ravel() for g in np.meshgrid([1, 2, 4, 8], [1, 63, 255, 1023, 4095]))
    fits = batch * context <= 4095
    batch, context = batch[fits], context[fits]
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": 64, "window": 0}
    return MeasurementBatch(
        *("attention_decode", "bf16", "bf16", sku, Origin("silicon", "a package", "1", "d", "MIT")),
        dims={
            **{n: np.full(len(batch), v) for n, v in shape.items()},
            "batch": batch,
            "context": context,
        },
        times_s={"mean_s": 10e-6 + 1.5e-9 * batch * context},
    )


def prefill_batch(sku: str = "gpu", heads: int = 4, kv_heads: int = 2) -> MeasurementBatch:
    """12 us and 200 ps for each (query, key) pair."""
    chunk = np.array([1, 16, 64, 256, 1024, 2048])
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": 64, "window": 0}
    swept = {"batch": np.ones_like(chunk), "context": 0 * chunk, "chunk": chunk}
    return MeasurementBatch(
        *(
            "attention_prefill",
            "bf16",
            "bf16",
            sku,
            Origin("silicon", "a package", "1", "p", "MIT"),
        ),
        dims={**{n: np.full(len(chunk), v) for n, v in shape.items()}, **swept},
        times_s={"mean_s": 12e-6 + 200e-12 * chunk.astype(float) ** 2},
    )


def all_reduce_batch(sku: str = "gpu") -> MeasurementBatch:
    size = 2 ** np.arange(8, 24)
    return MeasurementBatch(
        *("all_reduce", "bf16", "", sku, Origin("silicon", "a package", "1", "ar", "MIT")),
        dims={"degree": np.full(len(size), 2), "payload_bytes": size},
        times_s={"mean_s": 5e-6 + size / 50e9},
        variant="custom",
    )


@pytest.fixture(scope="session")
def small_batches() -> list[MeasurementBatch]:
    """Every kernel of the small model on the small GPU, at one and two ranks."""
    return [
        linear_batch(),
        all_reduce_batch(),
        decode_batch(),
        prefill_batch(),
        decode_batch("gpu", 2, 1),
        prefill_batch("gpu", 2, 1),
    ]


@pytest.fixture
def store(small_batches: list[MeasurementBatch]) -> Iterator[Store]:
    """In memory, with measurements of the small GPU."""
    with Store.open(":memory:") as opened:
        opened.add_batches(small_batches)
        yield opened


@pytest.fixture(scope="session")
def predictor(small_batches: list[MeasurementBatch], gpu: Sku) -> Predictor:
    """Fitted once: it holds arrays and changes nothing."""
    with Store.open(":memory:") as store:
        store.add_batches(small_batches)
        return predictor_from(store, gpu, [small_model(), small_model(tp=2)], ["silicon"])
