"""Model FLOPs of served requests, for MFU: what the mathematics needs, whatever the engine recomputed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.attention import Attention, LatentAttention
from servecast.compiler.formats import BF16
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Collective, Experts, Linear
from servecast.compiler.sharded import Rows, ShardedProgram
from servecast.estimator.physics import compute_peak


@dataclass(frozen=True, slots=True)
class FlopsModel:
    """FLOPs of one replica, all ranks together.

    A request of p prompt and o output tokens runs its layers over n = p + o - 1 tokens and its head
    over o of them; attention sees n (n + 1) / 2 (query, key) pairs, fewer where a window cuts.
    """

    per_token: float
    per_output: float
    per_pair: tuple[tuple[int | None, float], ...]  # (window, FLOPs per visible pair)
    format: str  # of the activations in which most FLOPs per token run

    def served(
        self, prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """FLOPs of each request, shape [requests]."""
        tokens = (prompt_tokens + output_tokens - 1).astype(np.float64)
        flops = tokens * self.per_token + output_tokens * self.per_output
        for window, cost in self.per_pair:
            reach = tokens if window is None else np.minimum(tokens, window)
            flops = flops + cost * (reach * (reach + 1) / 2 + (tokens - reach) * reach)
        return np.asarray(flops, dtype=np.float64)


def flops_model(sharded: ShardedProgram) -> FlopsModel:
    """Sums the operators of every rank; replicated work counts once a rank, as the GPUs spend it."""
    ranks = sharded.parallelism.gpus // sharded.parallelism.pp
    launches = [
        (run.count * ranks * call.row_factor, call)
        for stage in sharded.stages
        for run in stage.runs
        for call in run.calls
    ]
    per_token = per_output = 0.0
    pairs: defaultdict[int | None, float] = defaultdict(float)
    formats = {BF16.name: 0.0}
    for times, call in launches:
        match call.op:
            case Collective():
                continue
            case Attention() | LatentAttention() as op:
                window = op.window if isinstance(op, Attention) else None
                pairs[window] += times * op.flops(0, 1)
            case op if call.rows is Rows.LAST_TOKENS:
                per_output += times * op.flops(1)
            case op:
                per_token += times * op.flops(1)
                if isinstance(op, Linear | Experts):
                    name = op.activations.name
                    formats[name] = formats.get(name, 0.0) + times * op.flops(1)
    busiest = max(formats, key=lambda name: formats[name])
    return FlopsModel(per_token, per_output, tuple(pairs.items()), busiest)


def peak_flops(sku: Sku, format_name: str) -> float | None:
    """FLOP/s of one GPU for weights of a format, as times are predicted with; None where none is known."""
    try:
        return compute_peak(sku, format_name)
    except ValueError:
        return None


def mfu(
    sharded: ShardedProgram,
    placed: Sequence[tuple[Sku, int]],
    served: tuple[NDArray[np.int64], NDArray[np.int64]],
    duration_s: float,
) -> float | None:
    """Model FLOPs of what was ``served`` (prompt and output tokens) over what the GPUs could have done.

    ``placed``: each GPU and how many. None where the peak of one is not known.
    """
    model = flops_model(sharded)
    could = 0.0
    for sku, gpus in placed:
        peak = peak_flops(sku, model.format)
        if peak is None:
            return None
        could += peak * gpus
    return float(model.served(*served).sum() / (duration_s * could))
