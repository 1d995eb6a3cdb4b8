"""Reads a folder of Vidur profiles: ``compute/<sku>/<model…>/{mlp,attention}.csv``, ``network/<node>/*.csv``.

Vidur writes milliseconds and bytes: an H100's 64 MiB all-reduce of 0.318 ms is 316 GB/s of bus bandwidth
in these units and twice the link's rate in any other. It measures fp16, which runs as bf16 does and
is stored as that. Its norms are its own kernel, without the residual.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from servecast.compiler.errors import DataMissingError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.importers.agreement import Agreement, Timed, refuse_mixed_units
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

Row = Mapping[str, str]


@dataclass(slots=True)
class Skipped:
    """How many cells were not taken, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a file, able to say where it is."""

    path: Path
    number: int
    row: Row

    def where(self, column: str) -> str:
        return f"{self.path}:{self.number}: column {column}"

    def integer(self, column: str) -> int:
        text = self._text(column)
        try:
            value = int(float(text))
        except ValueError:
            value = -1
        if value < 0:
            raise DataMissingError(f"{self.where(column)}: {text!r} is not a whole number")
        return value

    def _text(self, column: str) -> str:
        text = self.row.get(column)
        if text is None:
            raise DataMissingError(f"{self.path}: no column {column}; is it a Vidur profile?")
        return text

    def timing(self, name: str) -> Timing | None:
        """None where the cell is empty: not measured.

        Raises:
            DataMissingError: a time that is not a positive number.
        """
        if self._text(f"time_stats.{name}.median") == "":
            return None
        mean, median, low = (self._ms(name, part) for part in ("mean", "median", "min"))
        spread = self._ms(name, "std")
        for part, value in (("mean", mean), ("median", median)):
            if value <= 0:
                where = self.where(f"time_stats.{name}.{part}")
                raise DataMissingError(f"{where}: {value} ms is not a positive time")
        return Timing(mean, None, spread, low if low > 0 else None, median)

    def _ms(self, name: str, part: str) -> float:
        column = f"time_stats.{name}.{part}"
        text = self._text(column)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value < float("inf"):
            raise DataMissingError(f"{self.where(column)}: {text!r} is not a time in milliseconds")
        return value * S_PER_MS


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
    for line in _lines(path):
        for case in READERS[path.name](line, skipped):
            timing = line.timing(case.column)
            if timing is None:
                skipped.reasons[f"{relative}: {case.column} was not measured"] += 1
                continue
            dims = tuple(sorted(case.dims.items()))
            key = KernelCase(case.kernel, "bf16", case.kv_dtype, dims)
            median_s, where = timing.median_s or timing.mean_s, line.where(case.column)
            agreement.check(key, median_s, line.number, where)
            found.append(Timed(key, median_s, where))
            yield Measurement(key, SKUS.get(name, name), origin, timing, method="eager")
    refuse_mixed_units(found)


def _lines(path: Path) -> Iterator[_Line]:
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield _Line(path, number, row)


def _mlp(line: _Line, skipped: Skipped) -> Iterable[_Case]:
    tp, rows = line.integer("num_tensor_parallel_workers"), line.integer("num_tokens")
    hidden, heads = line.integer("n_embd"), line.integer("n_head")
    head_dim = hidden // heads
    q, kv = heads // tp, max(1, line.integer("n_kv_head") // tp)
    inner = line.integer("n_expanded_embd") // tp
    gated = line.row.get("use_gated_mlp") == "True"

    def linear(column: str, width_in: int, width_out: int) -> _Case:
        dims = {"rows": rows, "in_features": width_in, "out_features": width_out}
        return _Case(column, "linear", dims)

    norm = {"rows": rows, "width": hidden, "per_row": 1, "residual": 0}
    vocab = -(-line.integer("vocab_size") // tp)
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


def _attention(line: _Line, skipped: Skipped) -> Iterable[_Case]:
    """A line times either one prefill chunk or one batch of decodes; the other column holds zeros."""
    tp = line.integer("num_tensor_parallel_workers")
    all_heads = line.integer("n_q_head")
    head_dim = line.integer("n_embd") // all_heads
    kv_heads = max(1, line.integer("n_kv_head") // tp)
    shape = {"heads": all_heads // tp, "kv_heads": kv_heads, "head_dim": head_dim, "window": 0}
    batch, cached = line.integer("batch_size"), line.integer("kv_cache_size")
    chunk = line.integer("prefill_chunk_size")
    prefill = line.row.get("is_prefill") == "True"
    write = {"rows": chunk * batch if prefill else batch, "width": 2 * kv_heads * head_dim}
    saved = _Case("attn_kv_cache_save", "kv_write", write, "bf16")
    swept = {"batch": batch, "context": cached}
    if prefill:
        return (
            saved,
            _Case("attn_prefill", "attention_prefill", {**shape, **swept, "chunk": chunk}, "bf16"),
        )
    return saved, _Case("attn_decode", "attention_decode", {**shape, **swept}, "bf16")


def _network(column: str, kernel: str) -> Callable[[_Line, Skipped], Iterable[_Case]]:
    def read(line: _Line, skipped: Skipped) -> Iterable[_Case]:
        degree, size = line.integer("num_workers"), line.integer("size")
        if line.integer("devices_per_node") != degree:
            skipped.reasons[f"{line.path.parent.name}: {column} between nodes"] += 1
            return ()
        return (_Case(column, kernel, {"degree": degree, "payload_bytes": size}),)

    return read


READERS: dict[str, Callable[[_Line, Skipped], Iterable[_Case]]] = {
    "mlp.csv": _mlp,
    "attention.csv": _attention,
    "all_reduce.csv": _network("all_reduce", "all_reduce"),
    "send_recv.csv": _network("send_recv", "send"),
}
