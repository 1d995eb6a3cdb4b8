"""A public serving point on its GPUs: what every rank runs, and the engine's limits there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from silicon_points import Case, program_of
from silicon_runs import check_protocol
from silicon_settings import Settings, settings_of

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.memory import MemoryPlan, plan_memory
from servecast.compiler.shard import shard
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.engine_profile import EngineProfile
from servecast.estimator.tables import TableBounds
from servecast.simulator.engine.deployment import EngineLimits

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Placed:
    """A case on its GPUs: what every rank runs, and the engine's limits there."""

    settings: Settings
    sku: Sku
    sharded: ShardedProgram
    limits: EngineLimits
    drafter: ShardedProgram | None = None

    @property
    def tables_key(self) -> str:
        """Cases that share it take the same times."""
        return repr((self.sku.name, self.sharded, of_tables(self.settings.engine)))


def place(case: Case) -> Placed:
    """
    Raises:
        UserError: no spec, no such GPU, a row that tells another run, or the weights leave no room.
    """
    check_protocol(case)
    settings, skus = settings_of(case), shipped_skus()
    program = program_of(case.model, case.precision, settings.kv_cache)
    if case.sku not in skus:
        raise UserError(f"unknown SKU {case.sku!r}")
    sku, degrees = skus[case.sku], case.parallelism
    if degrees.tp > sku.gpus_per_node:
        raise UserError("a fleet's GPUs, labelled as one tensor-parallel group")
    sharded = shard(program, degrees)
    drafting = settings.drafted > 0
    limits = EngineLimits(
        settings.max_num_seqs,
        max(settings.max_batched_tokens, settings.max_num_seqs),
        kv_blocks(sharded, sku.memory_bytes, settings, case.isl + case.osl),
        BLOCK_TOKENS,
        async_scheduling=settings.engine.async_scheduling
        and settings.policy == "vllm_v1"
        and not drafting,
    )
    module = program_of(case.model, case.precision, settings.kv_cache, "-mtp") if drafting else None
    return Placed(settings, sku, sharded, limits, shard(module, degrees) if module else None)


def of_tables(engine: EngineProfile) -> EngineProfile:
    """What of a profile the tables depend on."""
    return replace(engine, async_scheduling=False, client_s=0.0, receive_every_steps=1, sources={})


def kv_blocks(sharded: ShardedProgram, memory: int, settings: Settings, longest: int) -> int:
    """By each engine's own rule.

    Raises:
        UserError: nothing is left for the cache.
    """

    def plan(utilisation: float) -> MemoryPlan:
        seqs, tokens = settings.max_num_seqs, settings.max_batched_tokens
        planned = plan_memory(sharded, memory, utilisation, tokens, seqs, BLOCK_TOKENS)
        return replace(planned, sequence_tokens=longest)

    if settings.engine.kernels == "trtllm":  # free_gpu_memory_fraction of what is left
        whole = plan(1.0)
        budget = int(settings.kv_fraction * whole.kv_budget_bytes)
    elif settings.engine.kernels == "sglang":  # mem_fraction_static: weights and cache
        whole = plan(1.0)
        budget = int(settings.kv_fraction * memory) - whole.weight_bytes - whole.state_bytes
    else:
        whole = plan(settings.kv_fraction)
        budget = whole.kv_budget_bytes
    blocks = budget // whole.kv_bytes_per_block
    if blocks < 1:
        raise UserError("the weights leave no room for a KV cache")
    return blocks


def table_bounds(placed: list[Placed]) -> TableBounds:
    """That cover all of them."""
    limits = [each.limits for each in placed]
    return TableBounds(
        max(each.max_batched_tokens for each in limits),
        max(each.max_num_seqs for each in limits),
        placed[0].sharded.context_tokens,
        max(each.kv_blocks for each in limits) * BLOCK_TOKENS,
    )
