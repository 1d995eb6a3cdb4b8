"""Times of what a step does once per token or once per sequence: everything but attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.ir import Collective, KvWrite
from servecast.compiler.kernels import SEQUENCE_KERNELS, KernelShape, kernel_shapes
from servecast.compiler.sharded import Call, Rows, Stage
from servecast.estimator.attention_times import columns_of, kind_of
from servecast.estimator.engine_profile import EngineProfile
from servecast.estimator.measurement import Floats, Ints
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Predictor
from servecast.estimator.tables import SOURCE_CODE, SOURCES, Source, TableBounds

Timed = tuple[Floats, NDArray[np.int8]]  # seconds and source codes

# Token counts to predict: such where nothing is captured, then up to each limit by this step.
SMALL = (*range(1, 9), *range(16, 513, 8))
TOKEN_STEPS = ((2048, 64), (8192, 128), (1 << 62, 512))
# Rows of a GEMM's tile where steps are so wide: one that is not full takes as long as one that is.
TILES = ((2048, 64), (1 << 62, 128))
TILED = "linear"
GEMMS = ("linear", "experts")
EXCHANGES = ("all_gather", "reduce_scatter")  # of rows between data-parallel ranks
SEQUENCE_POINTS = (*range(1, 9), *range(16, 65, 8), *range(96, 257, 32))


@dataclass(slots=True, eq=False)
class Sum:
    """Seconds by source [sources, *points], summed over launches, and by kernel what they may be off by
    [*points], as a standard deviation: launches of one kernel are wrong alike, kernels apart from each other.
    """

    by_source: Floats
    deviation_s: dict[KernelKind, Floats] = field(default_factory=dict)

    @classmethod
    def over(cls, *shape: int) -> Sum:
        return cls(np.zeros((len(SOURCES), *shape)))

    @property
    def seconds(self) -> Floats:
        return np.asarray(self.by_source.sum(axis=0), dtype=np.float64)

    def add(self, seconds: Floats, source: NDArray[np.int8]) -> None:
        for code in np.unique(source):
            self.by_source[code] += np.where(source == code, seconds, 0.0)

    def add_kernel(self, predictor: Predictor, kind: KernelKind, timed: Timed) -> None:
        """As ``add``, with what the kernel's predictor may be off by."""
        seconds, source = timed
        self.add(seconds, source)
        off = seconds * predictor.deviation(kind, source)
        self.deviation_s[kind] = self.deviation_s.get(kind, 0.0) + off


def total_of(sums: Sequence[Sum]) -> Sum:
    """Of several stages."""
    deviation_s: dict[KernelKind, Floats] = {}
    for each in sums:
        for kind, off in each.deviation_s.items():
            deviation_s[kind] = deviation_s.get(kind, 0.0) + off
    return Sum(np.add.reduce([each.by_source for each in sums]), deviation_s)


def spread_of(total: Sum) -> Floats:
    """Relative standard deviation of each point's time; zero where there is no time."""
    squares = sum((off**2 for off in total.deviation_s.values()), start=0 * total.seconds)
    seconds = total.seconds
    return np.asarray(np.sqrt(squares) / np.where(seconds > 0, seconds, 1.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel of a stage's step, over ``row_factor`` rows for each of the step's; ``bytes_per_row`` is a
    collective's message, ``group`` its ranks. ``layer`` tells kinds of layers apart, where something is asked
    of each.
    """

    shape: KernelShape
    rows: Rows
    row_factor: float = 1.0
    bytes_per_row: int = 0
    layer: int = 0
    group: str = ""

    @property
    def is_attention(self) -> bool:
        return self.shape.kernel.startswith(SEQUENCE_KERNELS)


def launches_of(stage: Stage, predictor: Predictor, *, by_layer: bool = False) -> Counter[Launch]:
    """How often a step of the stage launches each kernel, or each kind of layer does."""
    launches = Counter[Launch]()
    for number, run in enumerate(stage.runs):
        for call in run.calls:
            if isinstance(call.op, KvWrite) and predictor.attention_writes_kv:
                continue  # inside the attention samples
            for shape in kernel_shapes(call.op):
                launches[launch_of(call, shape, number if by_layer else 0)] += run.count
    return launches


def launch_of(call: Call, shape: KernelShape, layer: int = 0) -> Launch:
    """One of the kernels of a rank's call."""
    if not isinstance(call.op, Collective):
        return Launch(shape, call.rows, call.row_factor, layer=layer)
    per_row = call.op.payload_bytes(1)
    return Launch(shape, call.rows, call.row_factor, per_row, layer, call.op.group)


def token_times(
    launches: Counter[Launch], predictor: Predictor, max_tokens: int, engine: EngineProfile
) -> Sum:
    """[max_tokens + 1]: a step of no more tokens than the largest captured graph runs the next graph."""
    points = token_points(max_tokens, engine.capture_sizes)
    at, tiled = Sum.over(len(points)), Sum.over(len(points))
    for launch, count in launches.items():
        if _counts_tokens(launch) and not (engine.overlap and launch.shape.kernel in COLLECTIVES):
            _add(tiled if launch.shape.kernel == TILED else at, launch, count, predictor, points)
    if engine.overlap:
        at = total_of([at, *_exposed(launches, predictor, points, engine.overlap)])
    tokens = np.arange(max_tokens + 1)
    captured = np.array(engine.capture_sizes or (0,))
    graph = captured[np.minimum(np.searchsorted(captured, tokens), len(captured) - 1)]
    run = np.where(tokens <= captured[-1], graph, tokens)
    return total_of([_dense(at, points, run), _dense(tiled, points, _whole_tiles(run, engine))])


def _whole_tiles(tokens: Ints, engine: EngineProfile) -> Ints:
    """The rows that a GEMM of so many tokens computes."""
    limits, tiles = np.array(TILES).T
    tile = tiles[np.searchsorted(limits, tokens)]
    smallest = (engine.capture_sizes or SMALL)[-1]
    return np.where(tokens > smallest, -(-tokens // tile) * tile, tokens)


def shared_times(
    launches: Counter[Launch], predictor: Predictor, bounds: TableBounds, engine: EngineProfile
) -> Floats:
    """[2, max_batched_tokens + 1]: of `token_times`, experts that work on other ranks' tokens too, and the
    gathering of the rows and scattering of the results; [2, 0] where there are none, or an engine hides a
    part of it.
    """
    experts = {each: n for each, n in launches.items() if _of_all_ranks(each)}
    if engine.overlap > 0 or not experts:
        return np.zeros((2, 0))
    exchanges = {each: n for each, n in launches.items() if _gathers(each)}
    most = bounds.max_batched_tokens
    times = [token_times(Counter(each), predictor, most, engine) for each in (experts, exchanges)]
    return np.stack([each.seconds for each in times])


def _of_all_ranks(launch: Launch) -> bool:
    return launch.shape.kernel == "experts" and launch.row_factor > 1


def _gathers(launch: Launch) -> bool:
    return launch.shape.kernel in EXCHANGES and launch.group in ("dp", "ep")


def _counts_tokens(launch: Launch) -> bool:
    tokens = launch.rows is Rows.TOKENS and launch.shape.kernel != "send"
    return tokens and not launch.is_attention


def _exposed(
    launches: Counter[Launch], predictor: Predictor, points: Ints, overlap: float
) -> Iterator[Sum]:
    """For each kind of layer what its collectives take beyond the share of its GEMMs that hides them.

    SOURCE: vLLM fuses each with the GEMM beside it (vllm/compilation/collective_fusion.py, AsyncTPPass).
    """
    for layer in sorted({launch.layer for launch in launches}):
        sent, computed = Sum.over(len(points)), Sum.over(len(points))
        for launch, count in launches.items():
            if launch.layer != layer or not _counts_tokens(launch):
                continue
            if launch.shape.kernel in COLLECTIVES:
                _add(sent, launch, count, predictor, points)
            elif launch.shape.kernel in GEMMS:
                _add(computed, launch, count, predictor, points)
        left_s = np.maximum(sent.seconds - overlap * computed.seconds, 0.0)
        share = left_s / np.where(sent.seconds > 0, sent.seconds, 1.0)
        off = {kind: each * share for kind, each in sent.deviation_s.items()}
        yield Sum(sent.by_source * share, off)


def token_points(max_tokens: int, capture_sizes: tuple[int, ...]) -> Ints:
    """Where to predict, increasing, the last at or beyond ``max_tokens``."""
    points = list(capture_sizes or SMALL)
    for limit, step in TOKEN_STEPS:
        start = (points[-1] // step + 1) * step
        points.extend(range(start, min(limit, max_tokens + step) + 1, step))
    return np.array(points, dtype=np.int64)


def sequence_times(
    launches: Counter[Launch], predictor: Predictor, max_sequences: int, engine: EngineProfile
) -> Sum:
    """[max_sequences + 1]: the head and sampling, and the host's time for each sequence."""
    step = SEQUENCE_POINTS[-1] - SEQUENCE_POINTS[-2]
    beyond = range(SEQUENCE_POINTS[-1] + step, max_sequences + step, step)
    points = np.array([*SEQUENCE_POINTS, *beyond], dtype=np.int64)
    at = Sum.over(len(points))
    heads = [(launch, n) for launch, n in launches.items() if launch.rows is Rows.LAST_TOKENS]
    for launch, count in heads:
        _add(at, launch, count, predictor, points)
    if heads:
        at.by_source[SOURCE_CODE[Source.ANALYTICAL]] += engine.host_per_sequence_s * points
    return _dense(at, points, np.arange(max_sequences + 1))


def send_times(launches: Counter[Launch], predictor: Predictor, max_tokens: int) -> Sum:
    """[max_tokens + 1]: activations on their way to the next stage."""
    tokens = np.arange(max_tokens + 1)
    points = np.arange(1, max_tokens + 1, dtype=np.int64)
    at = Sum.over(len(points))
    for launch, count in launches.items():
        if launch.shape.kernel == "send":
            _add(at, launch, count, predictor, points)
    return _dense(at, points, tokens)


def _add(at: Sum, launch: Launch, count: int, predictor: Predictor, points: Ints) -> None:
    rows = np.ceil(points * launch.row_factor).astype(np.int64)
    if launch.bytes_per_row:
        dims = columns_of(launch.shape, len(points), payload_bytes=rows * launch.bytes_per_row)
    else:
        dims = columns_of(launch.shape, len(points), rows=rows)
    kind = kind_of(launch.shape)
    answer = predictor.predict(kind, dims)
    at.add_kernel(predictor, kind, (count * answer.seconds, answer.source))


def _dense(at: Sum, points: Ints, wanted: Ints) -> Sum:
    """Linear between points, index by index; no work takes no time."""
    rows = [np.interp(wanted, points, row) for row in at.by_source]
    off = {kind: np.interp(wanted, points, row) for kind, row in at.deviation_s.items()}
    dense = Sum(np.stack(rows), off)
    dense.by_source[:, 0] = 0.0
    return dense
