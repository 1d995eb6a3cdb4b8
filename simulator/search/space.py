"""The configurations to try, every combination of the axes, and why some cannot run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from math import prod

from servecast.compiler.errors import ShardError, UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.program import Program
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.search.task import Setting

UTILISATION = 0.9  # of GPU memory, vLLM's gpu_memory_utilization default
BLOCK_TOKENS = 16  # vLLM's default KV block
DEFAULT_POLICY = "vllm_v1"
DEFAULT_ROUTER = "least_outstanding"
AGGREGATED, DISAGGREGATED = MODES = ("aggregated", "disaggregated")
DECLARED = "declared"
"""The precision that the spec gives its model."""


@dataclass(frozen=True, slots=True)
class Axes:
    """The values to combine. Every tuple holds at least one, but those of the roles where none is apart.

    ``ep`` above 1 and ``dp`` above 1 are tried for models with experts alone, ``routers`` where a
    deployment has several engines to choose from.
    """

    skus: tuple[str, ...]
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    max_batched_tokens: tuple[int, ...]
    policies: tuple[str, ...] = (DEFAULT_POLICY,)
    ep: tuple[int, ...] = (1,)
    dp: tuple[int, ...] = (1,)
    routers: tuple[str, ...] = (DEFAULT_ROUTER,)
    precisions: tuple[str, ...] = (DECLARED,)
    modes: tuple[str, ...] = (AGGREGATED,)
    prefill_skus: tuple[str, ...] = ()
    decode_skus: tuple[str, ...] = ()

    def sizes(self) -> dict[str, int]:
        """How many values each axis has; those of the two roles where they are apart."""
        sizes = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        return {name: size for name, size in sizes.items() if size}

    def __len__(self) -> int:
        return self.num_aggregated + self.num_pairs

    @property
    def num_aggregated(self) -> int:
        apart = ("modes", "prefill_skus", "decode_skus")
        sizes = self.sizes()
        return prod(sizes[name] for name in sizes if name not in apart) * (AGGREGATED in self.modes)

    @property
    def num_pairs(self) -> int:
        """Placements of prefill with those of decode; their limits are what each pool is best with."""
        roles = len(self.prefill_skus) * len(self.decode_skus) * len(list(self.degrees())) ** 2
        rules = len(self.policies) * len(self.routers) * len(self.precisions)
        return roles * rules * (DISAGGREGATED in self.modes)

    def degrees(self) -> Iterator[Parallelism]:
        for tp, pp, ep, dp in product(self.tp, self.pp, self.ep, self.dp):
            yield Parallelism(tp=tp, pp=pp, ep=ep, dp=dp)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration that fits in memory."""

    policy: str
    limits: EngineLimits
    memory: MemoryPlan
    router: str = DEFAULT_ROUTER

    @property
    def setting(self) -> Setting:
        return Setting(self.limits, self.policy, self.router)


@dataclass(frozen=True, slots=True)
class Placement:
    """One (SKU, precision, parallelism) and its candidates, which share their runtime tables."""

    sku: Sku
    sharded: ShardedProgram
    candidates: tuple[Candidate, ...]
    precision: str = DECLARED

    @property
    def parallelism(self) -> Parallelism:
        return self.sharded.parallelism

    @property
    def label(self) -> str:
        """``h100-sxm tp=2 pp=1``, with what else is not the default."""
        degrees = self.parallelism
        more = [f"{name}={getattr(degrees, name)}" for name in ("ep", "dp")]
        parts = [self.sku.name, f"tp={degrees.tp}", f"pp={degrees.pp}"]
        parts += [each for each in more if not each.endswith("=1")]
        return " ".join([*parts, *([self.precision] if self.precision != DECLARED else [])])

    def refused(self, constraint: str, reason: str) -> Infeasible:
        """All of its candidates."""
        return replace(
            _miss(self.sku, self.parallelism, (constraint, reason)), precision=self.precision
        )


@dataclass(frozen=True, slots=True)
class Infeasible:
    """A configuration, or a group of them (None: any), that cannot be the answer, and why."""

    sku: str
    tp: int
    pp: int
    ep: int
    dp: int
    max_num_seqs: int | None
    max_batched_tokens: int | None
    constraint: str  # what refuses it, in a word or two: memory, the GPU limit, …
    reason: str
    precision: str = DECLARED


@dataclass(frozen=True, slots=True)
class Space:
    placements: tuple[Placement, ...]
    infeasible: tuple[Infeasible, ...]

    def __len__(self) -> int:
        return sum(len(p.candidates) for p in self.placements)

    def __add__(self, other: Space) -> Space:
        return Space(self.placements + other.placements, self.infeasible + other.infeasible)

    def at(self, precision: str) -> Space:
        """The same, of a model in another precision."""
        return Space(
            tuple(replace(each, precision=precision) for each in self.placements),
            tuple(replace(each, precision=precision) for each in self.infeasible),
        )


def known_skus(names: Iterable[str], skus: Mapping[str, Sku]) -> tuple[Sku, ...]:
    """Raises UserError with a suggestion for a name that is not declared."""
    for name in names:
        if name not in skus:
            hint = did_you_mean(name, skus)
            raise UserError(f"unknown SKU {name!r}{hint}; declared are {', '.join(sorted(skus))}")
    return tuple(skus[name] for name in names)


def enumerate_space(
    program: Program,
    axes: Axes,
    skus: Mapping[str, Sku],
    max_gpus: int,
    sequence_tokens: int | None = None,
) -> Space:
    """Every combination of ``axes`` for one precision, that of ``program``: placed or refused.

    ``sequence_tokens`` is the length that requests grow to, on average: of longer ones, layers with a
    window keep no more than the window. None counts windows as full layers.
    """
    placements: list[Placement] = []
    refused: list[Infeasible] = []
    for sku in known_skus(axes.skus, skus):
        for degrees in axes.degrees():
            sharded = _sharded(program, sku, degrees, max_gpus)
            if isinstance(sharded, tuple):
                refused.append(_miss(sku, degrees, sharded))
                continue
            candidates: list[Candidate] = []
            for batch in product(axes.max_num_seqs, axes.max_batched_tokens):
                memory = _planned(sharded, sku, batch, sequence_tokens)
                if isinstance(memory, tuple):
                    refused.append(_miss(sku, degrees, memory, batch))
                    continue
                limits = EngineLimits(*batch, memory.kv_blocks, BLOCK_TOKENS)
                candidates.extend(
                    Candidate(policy, limits, memory, router)
                    for policy, router in product(axes.policies, axes.routers)
                )
            if candidates:
                placements.append(Placement(sku, sharded, tuple(candidates)))
    return Space(tuple(placements), tuple(refused))


Refusal = tuple[str, str]  # the constraint, the reason


def _miss(
    sku: Sku,
    degrees: Parallelism,
    refusal: Refusal,
    batch: tuple[int, int] | tuple[None, None] = (None, None),
) -> Infeasible:
    ranks = (degrees.tp, degrees.pp, degrees.ep, degrees.dp)
    seqs, tokens = batch
    constraint, reason = refusal
    return Infeasible(sku.name, *ranks, seqs, tokens, constraint, reason)


def _sharded(
    program: Program, sku: Sku, degrees: Parallelism, max_gpus: int
) -> ShardedProgram | Refusal:
    """The program cut so, or why no batch limit can help."""
    if degrees.gpus > max_gpus:
        return "the GPU limit", f"needs {degrees.gpus} GPUs, and the limit is {max_gpus}"
    if degrees.tp * degrees.dp > sku.gpus_per_node:
        ranks = f"tp={degrees.tp}" + (f" dp={degrees.dp}" if degrees.dp > 1 else "")
        there_are = f"{sku.name} has {sku.gpus_per_node} GPUs a node"
        return "the node's size", f"{ranks} spans nodes: {there_are}"
    try:
        return shard(program, degrees)
    except ShardError as error:
        return "the model's shape", str(error)


def _planned(
    sharded: ShardedProgram, sku: Sku, batch: tuple[int, int], sequence_tokens: int | None
) -> MemoryPlan | Refusal:
    """The memory of a batch limit and a token budget, or why they cannot be."""
    seqs, tokens = batch
    if tokens < seqs:
        reason = f"a token budget below the batch limit: {tokens} < {seqs}"
        return "the token budget", reason
    planned = plan_memory(
        sharded,
        sku.memory_bytes,
        utilisation=UTILISATION,
        max_batched_tokens=tokens,
        max_num_seqs=seqs,
        block_tokens=BLOCK_TOKENS,
    )
    memory = replace(planned, sequence_tokens=sequence_tokens)
    return memory if memory.kv_blocks > 0 else ("memory", _memory_reason(sku, memory))


def _memory_reason(sku: Sku, memory: MemoryPlan) -> str:
    short_gb = memory.missing_bytes / 1e9
    return (
        f"does not fit: weights {memory.weight_bytes / 1e9:.1f} GB and working memory leave no room "
        f"for a KV cache in {UTILISATION:.0%} of {sku.memory_bytes / 1e9:.0f} GB; "
        f"short by {short_gb:.1f} GB a GPU"
    )
