"""How far a program's kernels lie outside what was measured, and when that is too far to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.kernels import KernelShape
from servecast.compiler.sharded import Rows, ShardedProgram
from servecast.estimator.attention_times import kind_of
from servecast.estimator.predictor import Predictor, Samples
from servecast.estimator.tables import TableBounds
from servecast.estimator.token_times import Launch, launches_of

# Held-out GEMMs one octave beyond the largest measured width err by 5 % at the median and 22 % at the
# 95th percentile, which a label can say; three octaves are another machine's regime.
MAX_OCTAVES = 3.0
NOTED_OCTAVES = 0.5
NAMED = 3  # of refused shapes in a sentence


@dataclass(frozen=True, slots=True)
class Outside:
    """A kernel shape, and how many doublings its farthest dimension is from the measured ones."""

    shape: KernelShape
    dimension: str
    octaves: float

    def __str__(self) -> str:
        return f"{described(self.shape)}: {self.dimension} is {self.octaves:.1f} octaves"


def described(shape: KernelShape) -> str:
    """Kernel, format and sizes, on one line."""
    sizes = " ".join(f"{name}={size}" for name, size in shape.dims)
    return f"{shape.kernel} {shape.dtype} {sizes}"


def outside(predictor: Predictor, shapes: Sequence[KernelShape]) -> list[Outside]:
    """Shapes beyond the data of their kernel's model, farthest first."""
    found = []
    for shape in shapes:
        samples = predictor.samples.get(kind_of(shape))
        if samples is not None and kind_of(shape) in predictor.models:
            dimension, octaves = _farthest(samples, shape)
            if octaves > 0:
                found.append(Outside(shape, dimension, octaves))
    return sorted(found, key=lambda x: (-x.octaves, x.shape))


def _farthest(samples: Samples, shape: KernelShape) -> tuple[str, float]:
    distances = [(0.0, "")]
    for name, size in shape.dims:
        if name in samples.dims and size > 0:
            low, high = int(samples.dims[name].min()), int(samples.dims[name].max())
            over = np.log2(max(size / max(high, 1), max(low, 1) / size))
            distances.append((float(max(over, 0.0)), name))
    octaves, dimension = max(distances)
    return dimension, octaves


def refuse_what_is_too_far(
    predictor: Predictor, programs: Sequence[ShardedProgram], shapes: Sequence[KernelShape]
) -> tuple[str, ...]:
    """Notes on what is extrapolated.

    Raises:
        DataMissingError: a shape is beyond ``MAX_OCTAVES``; it says what to measure, and how.
    """
    far = outside(predictor, shapes)
    refused = [x for x in far if x.octaves > MAX_OCTAVES]
    if refused:
        named = "; ".join(str(x) for x in refused[:NAMED])
        more = f"; and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        raise DataMissingError(
            f"{predictor.sku.name}: {named}{more} beyond anything measured there (at most {MAX_OCTAVES:g}"
            f" are answered); measure what is missing: {profile_command(programs)}"
        )
    return tuple(
        f"{predictor.sku.name}: extrapolated: {x} beyond the data"
        for x in far
        if x.octaves > NOTED_OCTAVES
    )


def profile_command(programs: Sequence[ShardedProgram]) -> str:
    """What measures every case that a store lacks of the programs; files and hosts are the user's to name."""
    models = sorted({program.model for program in programs})
    degrees = sorted({program.parallelism.tp for program in programs})
    tp = ",".join(str(degree) for degree in degrees)
    commands = (
        f"servecast profile SPEC --model {model} --tp {tp} --agent HOST:PORT --store FILE"
        for model in models
    )
    return " and ".join(commands)


def refuse_too_large_steps(
    predictor: Predictor, sharded: ShardedProgram, bounds: TableBounds
) -> tuple[str, ...]:
    """Notes on steps larger than any measured, by the kernel for which that is farthest. Contexts longer than
    any measured go on along their slope, which the shares of time tell.

    Raises:
        DataMissingError: a batch or a step is beyond ``MAX_OCTAVES``; it says what to measure, and how.
    """
    found: dict[str, Outside] = {}
    launches = {x for stage in sharded.stages for x in launches_of(stage, predictor)}
    for launch in sorted(launches, key=lambda x: x.shape):
        samples = predictor.samples.get(kind_of(launch.shape))
        if samples is None or kind_of(launch.shape) not in predictor.models:
            continue
        for dimension, wanted in _largest(launch, bounds).items():
            measured = int(samples.dims[dimension].max())
            beyond = Outside(
                launch.shape, f"{dimension} {wanted}", float(np.log2(wanted / measured))
            )
            found[dimension] = max(beyond, found.get(dimension, beyond), key=lambda x: x.octaves)
    far = sorted(found.values(), key=lambda x: -x.octaves)
    if far and far[0].octaves > MAX_OCTAVES:
        limits = f"--max-num-batched-tokens {bounds.max_batched_tokens} --max-num-seqs {bounds.max_num_seqs}"
        raise DataMissingError(
            f"{predictor.sku.name}: {far[0]} beyond anything measured there (at most {MAX_OCTAVES:g} are"
            f" answered); lower the limit, or measure what is missing: {profile_command([sharded])} {limits}"
        )
    return tuple(
        f"{predictor.sku.name}: extrapolated: {x} beyond the data"
        for x in far
        if x.octaves > NOTED_OCTAVES
    )


def _largest(launch: Launch, bounds: TableBounds) -> dict[str, int]:
    """Of the swept dimensions that a fitted kernel has, what the largest step asks for."""
    if launch.shape.kernel.endswith("_decode"):
        return {"batch": bounds.max_num_seqs}
    if launch.is_attention or launch.bytes_per_row:
        return {}
    last = launch.rows is Rows.LAST_TOKENS
    rows = bounds.max_num_seqs if last else bounds.max_batched_tokens
    return {"rows": math.ceil(rows * launch.row_factor)}
