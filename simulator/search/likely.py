"""The rate that a fleet's tables and a trace's arrivals let expect: where to look first, never an answer.

What a replica does that is always full, from the tables, is what its queue does (`fluid_queue.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servecast.estimator.tables import Floats, RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.disaggregation import Disaggregated
from servecast.simulator.engine.records import LateTargets
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.fluid_queue import FluidQueue
from servecast.simulator.search.serving import Serving
from servecast.simulator.traffic.workload import Workload

LARGEST_FRONT = 2 / 3
"""Of the cache, that a waiting prompt may keep free."""


@dataclass(frozen=True, slots=True)
class Full:
    """What a replica does that never lacks requests.

    ``sequences`` run at a time; ``by_tokens``: the token budget holds it back, not places or KV blocks.
    ``prompts_per_s`` is what it does with nothing but prompts.
    """

    rate_per_s: float
    sequences: float
    by_tokens: bool
    prompts_per_s: float


def likely_rate_per_s(workload: Workload, serving: Serving, late: LateTargets) -> float:
    """Requests per second at which as many wait too long as may; of two pools the lesser."""
    if isinstance(serving, Disaggregated):
        pools = serving.prefill, serving.decode
        return min(likely_rate_per_s(workload, pool, late) for pool in pools)
    return Likely.of(workload, serving, late).rate_per_s


@dataclass(frozen=True, slots=True)
class Likely:
    """A fleet's queues: for a place, or for tokens of the budget that others' outputs leave; and for the
    prompts before, where there are places enough."""

    queues: tuple[FluidQueue, ...]
    highest: tuple[tuple[float, ...], ...]  # rate of each of the queues, under each limit

    @classmethod
    def of(cls, workload: Workload, fleet: Fleet, late: LateTargets) -> Likely:
        full = full_replica(workload, fleet.tables, fleet.limits)
        outputs = workload.output_tokens.astype(np.float64)
        prompts = workload.prompt_tokens.astype(np.float64)
        work = outputs + prompts if full.by_tokens else outputs
        remaining = float((outputs**2).mean() / outputs.mean()) / 2
        held = full.sequences * remaining / float(work.mean())
        queues = (
            FluidQueue.of(work, workload, fleet, (held, full.rate_per_s)),
            FluidQueue.of(prompts, workload, fleet, (0.0, full.prompts_per_s)),
        )
        limits = (
            (late.queue_delay_s, late.max_late_queue_delay),
            (late.ttft_s, late.max_late_ttft),
        )
        highest = (tuple(queue.highest_rate(*limit) for queue in queues) for limit in limits)
        return cls(queues, tuple(highest))

    @property
    def rate_per_s(self) -> float:
        return self.queues[0].queues * min(min(rates) for rates in self.highest)

    def shortest(self, limit: int) -> FluidQueue:
        """The queue that keeps the queue delay's limit, or the first token's, up to the lowest rate."""
        rates = self.highest[limit]
        return self.queues[rates.index(min(rates))]


def full_replica(workload: Workload, tables: RuntimeTables, limits: EngineLimits) -> Full:
    """A replica whose batches hold as many decodes as the limits let be, at the mean context.

    Some of its steps take a chunk of a prompt, too: those that it needs to follow the decodes. In a
    pipeline the batches behind one with a chunk wait for it in every stage, as if each had one.
    """
    prompt, output = float(workload.prompt_tokens.mean()), float(workload.output_tokens.mean())
    stages, budget = tables.num_stages, limits.max_batched_tokens
    context = _context(workload)
    share = output / (prompt + output - 1)  # of a step's tokens that are decodes'
    places = min(limits.max_num_seqs, _fitting(workload, limits, context)) / stages
    lane = max(min(places, budget * share), 1 / stages)
    decodes = max(int(lane), 1)
    needed = decodes * prompt / output  # tokens of prompts, for each step
    left = max(budget - decodes, 1)
    chunk = prompt / float((-(-workload.prompt_tokens // left)).mean())
    if needed > chunk:
        chunk = min(needed, float(left))
    with_chunk = needed / chunk
    tokens = min(int(decodes + chunk), budget)
    plain_s = _stage_s(tables, decodes, decodes, context)
    one_prompt = min(prompt, float(budget))
    attention_s = _between(tables.prefill_s[:, 0], one_prompt / tables.chunk_step_tokens)
    chunk_s = _stage_s(tables, tokens, decodes, context) + tables.prefill_base_s
    chunk_s = chunk_s + attention_s * (tokens - decodes) / one_prompt
    behind_one = 1 - (1 - min(with_chunk, 1.0)) ** stages
    step_s = (1 - behind_one) * plain_s + behind_one * max(with_chunk, 1.0) * chunk_s
    host_s = tables.host_step_s if stages == 1 else 0.0  # hidden behind other batches
    rate_per_s = min(lane, decodes) / output / (float(step_s.max()) + host_s)
    whole = min(int(prompt), budget)
    prompt_s = _stage_s(tables, whole, 1, 0.0) + tables.prefill_base_s + attention_s
    prompts_per_s = whole / prompt / float(prompt_s.max())
    return Full(rate_per_s, lane * stages, budget * share < places, prompts_per_s)


def _context(workload: Workload) -> float:
    """Tokens in the cache of the mean decode."""
    grown = workload.prompt_tokens + workload.output_tokens / 2
    return float((workload.output_tokens * grown).mean() / workload.output_tokens.mean())


def _fitting(workload: Workload, limits: EngineLimits, context: float) -> float:
    """Sequences in the cache, half a block of each empty, and room for the prompt that waits at the front."""
    tokens = limits.kv_blocks * limits.block_tokens
    prompts = workload.prompt_tokens.astype(np.float64)
    front = float((prompts**2).mean() / prompts.mean()) / 2
    return (tokens - min(front, LARGEST_FRONT * tokens)) / (context + limits.block_tokens / 2)


def _stage_s(tables: RuntimeTables, tokens: int, decodes: int, context: float) -> Floats:
    """[stages] of a batch without its prompts' attention."""
    cached = decodes * context / tables.kv_step_tokens
    attention_s = _between(tables.decode_s[:, decodes], cached)
    return np.asarray(tables.token_s[:, tokens] + tables.sequence_s[:, decodes] + attention_s)


def _between(points: Floats, at: float) -> Floats:
    """Columns of [stages, points], linear, beyond the last one, too."""
    low = min(int(at), points.shape[1] - 2)
    left, right = points[:, low], points[:, low + 1]
    return np.asarray(left + (right - left) * (at - low))
