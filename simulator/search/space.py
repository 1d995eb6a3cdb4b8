"""The configurations to try: every SKU × TP × PP × batch limit × token budget, and why some cannot run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from servecast.compiler.errors import ShardError, UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.program import Program
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism, ShardedProgram
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.deployment import EngineLimits

UTILISATION = 0.9  # of GPU memory, vLLM's gpu_memory_utilization default
BLOCK_TOKENS = 16  # vLLM's default KV block


@dataclass(frozen=True, slots=True)
class Axes:
    """The values to combine. Every tuple holds at least one."""

    skus: tuple[str, ...]
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    max_batched_tokens: tuple[int, ...]
    policies: tuple[str, ...] = ("vllm_v1",)

    def __len__(self) -> int:
        batches = len(self.max_num_seqs) * len(self.max_batched_tokens) * len(self.policies)
        return len(self.skus) * len(self.tp) * len(self.pp) * batches


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration that fits in memory."""

    policy: str
    limits: EngineLimits
    memory: MemoryPlan


@dataclass(frozen=True, slots=True)
class Placement:
    """One (SKU, TP, PP) and its candidates, which share their runtime tables."""

    sku: Sku
    sharded: ShardedProgram
    candidates: tuple[Candidate, ...]

    @property
    def parallelism(self) -> Parallelism:
        return self.sharded.parallelism


@dataclass(frozen=True, slots=True)
class Infeasible:
    """A configuration, or a group of them (None: any), that cannot be the answer, and why."""

    sku: str
    tp: int
    pp: int
    max_num_seqs: int | None
    max_batched_tokens: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Space:
    placements: tuple[Placement, ...]
    infeasible: tuple[Infeasible, ...]

    def __len__(self) -> int:
        return sum(len(p.candidates) for p in self.placements)


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
    """Every combination of ``axes``, either placed or refused with its reason.

    ``sequence_tokens`` is the length that requests grow to, on average: of longer ones, layers with a
    window keep no more than the window. None counts windows as full layers.
    """
    placements: list[Placement] = []
    refused: list[Infeasible] = []
    for sku in known_skus(axes.skus, skus):
        for tp in axes.tp:
            for pp in axes.pp:
                asked = Parallelism(tp=tp, pp=pp)
                placed = _place(program, sku, asked, axes, (max_gpus, sequence_tokens))
                if isinstance(placed, str):
                    refused.append(Infeasible(sku.name, tp, pp, None, None, placed))
                    continue
                placement, misses = placed
                refused.extend(misses)
                if placement.candidates:
                    placements.append(placement)
    return Space(tuple(placements), tuple(refused))


def _place(
    program: Program,
    sku: Sku,
    parallelism: Parallelism,
    axes: Axes,
    bounds: tuple[int, int | None],
) -> tuple[Placement, Sequence[Infeasible]] | str:
    """The placement with the candidates that fit, or why no batch limit can help.

    ``bounds``: the most GPUs, and the length that requests grow to.
    """
    max_gpus, sequence_tokens = bounds
    if parallelism.gpus > max_gpus:
        return f"needs {parallelism.gpus} GPUs, and the limit is {max_gpus}"
    if parallelism.tp > sku.gpus_per_node:
        return f"tp={parallelism.tp} spans nodes: {sku.name} has {sku.gpus_per_node} GPUs a node"
    try:
        sharded = shard(program, parallelism)
    except ShardError as error:
        return str(error)
    candidates: list[Candidate] = []
    misses: list[Infeasible] = []
    for seqs in axes.max_num_seqs:
        for tokens in axes.max_batched_tokens:
            if tokens < seqs:
                reason = f"a token budget below the batch limit: {tokens} < {seqs}"
                misses.append(
                    Infeasible(sku.name, parallelism.tp, parallelism.pp, seqs, tokens, reason)
                )
                continue
            planned = plan_memory(
                sharded,
                sku.memory_bytes,
                utilisation=UTILISATION,
                max_batched_tokens=tokens,
                max_num_seqs=seqs,
                block_tokens=BLOCK_TOKENS,
            )
            memory = replace(planned, sequence_tokens=sequence_tokens)
            if memory.kv_blocks <= 0:
                reason = _memory_reason(sku, memory)
                misses.append(
                    Infeasible(sku.name, parallelism.tp, parallelism.pp, seqs, tokens, reason)
                )
                continue
            limits = EngineLimits(seqs, tokens, memory.kv_blocks, BLOCK_TOKENS)
            candidates.extend(Candidate(policy, limits, memory) for policy in axes.policies)
    return Placement(sku, sharded, tuple(candidates)), misses


def _memory_reason(sku: Sku, memory: MemoryPlan) -> str:
    short_gb = memory.missing_bytes / 1e9
    return (
        f"does not fit: weights {memory.weight_bytes / 1e9:.1f} GB and working memory leave no room "
        f"for a KV cache in {UTILISATION:.0%} of {sku.memory_bytes / 1e9:.0f} GB; "
        f"short by {short_gb:.1f} GB a GPU"
    )
