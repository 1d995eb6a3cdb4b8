"""Reads a folder of Vidur profiles: ``compute/<sku>/<model…>/{mlp,attention}.csv``, ``network/<node>/*.csv``.

Vidur writes milliseconds and bytes: an H100's 64 MiB all-reduce of 0.318 ms is 316 GB/s of bus bandwidth
in these units and twice the link's rate in any other. It measures fp16, which runs as bf16 does and
is stored as that. Its norms are its own kernel, without the residual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from servecast.compiler.errors import DataMissingError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.importers.agreement import Agreement, Timed, refuse_mixed_units
from servecast.estimator.importers.csv_lines import Line, lines_of
from servecast.estimator.measurement import Measurement, Origin, Timing

LICENCE = "MIT"
S_PER_MS = 1e-3
SKUS = {
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
    "a40": "a40",
    "a30": "a30",
    "a100_dgx": "a100-sxm-80gb",
    "h100_dgx": "h100-sxm",
}

OF, MS = "a Vidur profile", "ms"
RANKS = "num_tensor_parallel_workers"


@dataclass(slots=True)
class Skipped:
    """How many cells were not taken, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Case:
    """A kernel case and the column its time is in."""

    column: str
    kernel: str
    dims: dict[str, int]
    kv_dtype: str = ""


def import_vidur(folder: Path, skipped: Skipped) -> list[Measurement]:
    """Everything in ``folder``. Cells not taken are counted in ``skipped``.

    Raises:
        DataMissingError: there is no profile, or one holds a bad cell; it is named by row and column.
    """
    files = sorted(folder.glob("compute/**/*.csv")) + sorted(folder.glob("network/*/*.csv"))
    known = [path for path in files if path.name in READERS]
    if not known:
        raise DataMissingError(
            f"{folder}: no compute/<sku>/<model>/mlp.csv and no network/<node>/ in it"
        )
    found: list[Measurement] = []
    for path in known:
        found.extend(_read(path, folder, skipped))
    return found


def _read(path: Path, folder: Path, skipped: Skipped) -> Iterator[Measurement]:
    relative = path.relative_to(folder)
    name = relative.parts[1]
    origin = Origin("vidur", "vidur", "", relative.as_posix(), LICENCE)
    agreement, found = Agreement(), list[Timed]()
    for line in lines_of(path, OF):
        for case in READERS[path.name](line, skipped):
            timing = _timing(line, case.column)
            if timing is None:
                skipped.reasons[f"{relative}: {case.column} was not measured"] += 1
                continue
            dims = tuple(sorted(case.dims.items()))
            key = KernelCase(case.kernel, "bf16", case.kv_dtype, dims)
            median_s, where = (
                timing.median_s or timing.mean_s,
                line.where(f"time_stats.{case.column}.median"),
            )
            agreement.check(key, median_s, line.number, where)
            found.append(Timed(key, median_s, where))
            yield Measurement(key, SKUS.get(name, name), origin, timing, method="eager")
    refuse_mixed_units(found)


def _timing(line: Line, name: str) -> Timing | None:
    """None where the cell is empty: not measured.

    Raises:
        DataMissingError: a time that is not a positive number.
    """
    column = f"time_stats.{name}"
    if line.text(f"{column}.median") == "":
        return None
    mean, median = (line.positive_time(f"{column}.{x}", MS) * S_PER_MS for x in ("mean", "median"))
    low, spread = (line.time(f"{column}.{x}", MS) * S_PER_MS for x in ("min", "std"))
    return Timing(mean, None, spread, low if low > 0 else None, median)


def _mlp(line: Line, skipped: Skipped) -> Iterable[_Case]:
    tp, rows = line.whole(RANKS, least=1), line.whole("num_tokens", least=1)
    hidden, heads = line.whole("n_embd", least=1), line.whole("n_head", least=1)
    head_dim = line.share("n_embd", hidden, heads)
    q, kv = line.share(RANKS, heads, tp), max(1, line.whole("n_kv_head", least=1) // tp)
    inner = line.share(RANKS, line.whole("n_expanded_embd", least=1), tp)
    gated = line.yes("use_gated_mlp")

    def linear(column: str, width_in: int, width_out: int) -> _Case:
        dims = {"rows": rows, "in_features": width_in, "out_features": width_out}
        return _Case(column, "linear", dims)

    norm = {"rows": rows, "width": hidden, "per_row": 1, "residual": 0}
    vocab = -(-line.whole("vocab_size", least=1) // tp)
    rope = {"rows": rows, "heads": q + kv, "head_dim": head_dim, "rotary_dim": head_dim}
    return (
        _Case("emb", "embedding", {"rows": rows, "vocab": vocab, "width": hidden}),
        _Case("input_layernorm", "rms_norm", norm),
        _Case("post_attention_layernorm", "rms_norm", norm),
        linear("attn_pre_proj", hidden, (q + 2 * kv) * head_dim),
        _Case("attn_rope", "rope", rope),
        linear("attn_post_proj", q * head_dim, hidden),
        linear("mlp_up_proj", hidden, inner * (2 if gated else 1)),
        _Case("mlp_act", "swiglu" if gated else "gelu", {"rows": rows, "width": inner}),
        linear("mlp_down_proj", inner, hidden),
        _Case("add", "add", {"rows": rows, "width": hidden}),
    )


def _attention(line: Line, skipped: Skipped) -> Iterable[_Case]:
    """A line times either one prefill chunk or one batch of decodes; the other column holds zeros."""
    tp, all_heads = line.whole(RANKS, least=1), line.whole("n_q_head", least=1)
    heads = line.share(RANKS, all_heads, tp)
    head_dim = line.share("n_embd", line.whole("n_embd", least=1), all_heads)
    kv_heads = max(1, line.whole("n_kv_head", least=1) // tp)
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "window": 0}
    batch, cached = line.whole("batch_size", least=1), line.whole("kv_cache_size")
    prefill = line.yes("is_prefill")
    chunk = line.whole("prefill_chunk_size", least=int(prefill))
    write = {"rows": chunk * batch if prefill else batch, "width": 2 * kv_heads * head_dim}
    saved = _Case("attn_kv_cache_save", "kv_write", write, "bf16")
    swept = {"batch": batch, "context": cached}
    if prefill:
        return (
            saved,
            _Case("attn_prefill", "attention_prefill", {**shape, **swept, "chunk": chunk}, "bf16"),
        )
    return saved, _Case("attn_decode", "attention_decode", {**shape, **swept}, "bf16")


def _network(column: str, kernel: str) -> Callable[[Line, Skipped], Iterable[_Case]]:
    def read(line: Line, skipped: Skipped) -> Iterable[_Case]:
        degree, size = line.whole("num_workers", least=1), line.whole("size", least=1)
        if line.whole("devices_per_node") != degree:
            skipped.reasons[f"{line.path.parent.name}: {column} between nodes"] += 1
            return ()
        return (_Case(column, kernel, {"degree": degree, "payload_bytes": size}),)

    return read


READERS: dict[str, Callable[[Line, Skipped], Iterable[_Case]]] = {
    "mlp.csv": _mlp,
    "attention.csv": _attention,
    "all_reduce.csv": _network("all_reduce", "all_reduce"),
    "send_recv.csv": _network("send_recv", "send"),
}
