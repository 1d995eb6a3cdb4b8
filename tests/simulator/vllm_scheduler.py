"""What vLLM's own scheduler decides, step by step, without a model. Runs under a Python that has vLLM.

Reads a JSON list of cases from standard input, each with ``limits``, ``requests`` ([arrival step, prompt
tokens, output tokens]) and, if any are alike, ``prompts`` (token ids); with ``drafts``, for each request the
[drafted, accepted] tokens of its checks, in turn, and ``lookahead``. Writes for each case its steps:
number, tokens by request, requests preempted, tokens that each request admitted found cached.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import torch
from vllm.config import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
)
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

MAX_MODEL_LEN = 4096
OWN_TOKENS = 1_000_000
TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": MAX_MODEL_LEN,
    "torch_dtype": "bfloat16",
}


def speculative(model: ModelConfig, longest: int) -> SpeculativeConfig | None:
    """Drafts that are looked up: the driver says what they are."""
    if not longest:
        return None
    return SpeculativeConfig(
        method="ngram",
        num_speculative_tokens=longest,
        prompt_lookup_max=2,
        prompt_lookup_min=1,
        target_model_config=model,
        target_parallel_config=ParallelConfig(),
    )


def scheduler_of(
    model: ModelConfig, limits: dict[str, Any], caching: bool, longest: int = 0
) -> Scheduler:
    num_blocks = limits["kv_blocks"] + 1  # one of them is vLLM's null block
    block_tokens = limits["block_tokens"]
    watermark = limits["watermark_blocks"]
    config = VllmConfig(
        model_config=model,
        cache_config=CacheConfig(block_size=block_tokens, enable_prefix_caching=caching),
        scheduler_config=SchedulerConfig(
            max_model_len=MAX_MODEL_LEN,
            is_encoder_decoder=False,
            max_num_seqs=limits["max_num_seqs"],
            max_num_batched_tokens=limits["max_batched_tokens"],
            enable_chunked_prefill=True,
            scheduler_reserve_full_isl=limits["reserve_prompt"],
            watermark=(watermark + 0.5) / num_blocks if watermark else 0.0,
            async_scheduling=limits["async_scheduling"],
            long_prefill_token_threshold=limits["long_prefill_threshold"],
        ),
    )
    config.cache_config.num_gpu_blocks = num_blocks
    config.speculative_config = speculative(model, longest)
    spec = FullAttentionSpec(
        block_size=block_tokens, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    kv = KVCacheConfig(
        num_blocks=num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    manager = StructuredOutputManager(config)
    kind = AsyncScheduler if limits["async_scheduling"] else Scheduler
    return kind(config, kv, manager, block_size=block_tokens)


def request_of(number: int, prompt: list[int], output: int, block_tokens: int) -> Request:
    sampling = SamplingParams(ignore_eos=True, max_tokens=output)
    sampling.update_from_generation_config({}, eos_token_id=127)
    return Request(
        request_id=str(number),
        prompt_token_ids=prompt,
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=float(number),
        block_hasher=get_request_block_hasher(block_tokens, sha256),
    )


@dataclass
class Flight:
    """A batch, and who gets a token from it."""

    decided: SchedulerOutput
    end: int
    emitting: set[str]
    gained: dict[str, int]  # of those, where it is more than one token

    def output(self) -> ModelRunnerOutput:
        names = list(self.decided.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            # Nobody emits what another does.
            sampled_token_ids=[
                [OWN_TOKENS + int(name)] * self.gained.get(name, 1) if name in self.emitting else []
                for name in names
            ],
        )


class Drafts:
    """What a drafter would propose, and the model accept."""

    def __init__(self, scheduler: Scheduler, case: dict[str, Any]) -> None:
        self.scheduler = scheduler
        self.turns: list[list[list[int]]] = case.get("drafts") or []
        self.checks: dict[str, int] = {}
        self.decoding: set[str] = set()
        self.ahead = bool(case["limits"]["async_scheduling"])

    def turn(self, name: str) -> list[int]:
        every = self.turns[int(name)]
        return every[self.checks.get(name, 0) % len(every)]

    def gained(self, decided: SchedulerOutput, evicted: list[str]) -> dict[str, int]:
        """Tokens that the batch's checks bring."""
        self.decoding -= set(evicted)
        gained: dict[str, int] = {}
        for name, tokens in decided.num_scheduled_tokens.items():
            if self.turns and name in self.decoding:
                gained[name] = 1 + min(self.turn(name)[1], tokens - 1)
                self.checks[name] = self.checks.get(name, 0) + 1
        return gained

    def expect(self, emitting: set[str]) -> None:
        """Formed ahead, the next batch checks drafts that are not there yet."""
        if self.ahead:
            self.decoding |= emitting

    def propose(self, emitting: set[str]) -> None:
        """After the batch: drafts of those that got a token."""
        if self.turns and not self.ahead:
            self.decoding |= emitting
            names = sorted(emitting)
            drafts = [[OWN_TOKENS + int(name)] * self.turn(name)[0] for name in names]
            self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))


def form(scheduler: Scheduler, start: int, steps: list[dict[str, Any]], drafts: Drafts) -> Flight:
    """One batch that takes a step from its start, logged."""
    preemptions = {k: r.num_preemptions for k, r in scheduler.requests.items()}
    computed = {k: r.num_computed_tokens for k, r in scheduler.requests.items()}
    decided = scheduler.schedule()
    evicted = [k for k, n in preemptions.items() if scheduler.requests[k].num_preemptions > n]
    tokens = decided.num_scheduled_tokens
    steps.append(
        {
            "step": start,
            "tokens": {int(k): n for k, n in tokens.items()},
            "preempted": sorted(int(k) for k in evicted),
            "cached": {
                int(k): scheduler.requests[k].num_computed_tokens - n
                for k, n in tokens.items()
                if computed[k] == 0
            },
        }
    )
    emitting = {name for name in tokens if not scheduler.requests[name].is_prefill_chunk}
    gained = drafts.gained(decided, evicted)
    drafts.expect(emitting)
    return Flight(decided, start + 1, emitting, gained)


def run(model: ModelConfig, case: dict[str, Any]) -> list[dict[str, Any]]:
    """As vllm/v1/engine/core.py steps: with asynchronous scheduling a second batch is formed at once, and
    another whenever the older of two is over."""
    prompts = case.get("prompts")
    longest = max((drafted for each in case.get("drafts", []) for drafted, _ in each), default=0)
    caching = case["limits"]["prefix_caching"]
    scheduler = scheduler_of(model, case["limits"], caching, longest)
    drafts = Drafts(scheduler, case)
    if longest:
        scheduler.num_lookahead_tokens = case["lookahead"]
    depth = 2 if case["limits"]["async_scheduling"] else 1
    waiting = list(enumerate(case["requests"]))
    steps: list[dict[str, Any]] = []
    flights: list[Flight] = []
    now = 0
    while waiting or flights or scheduler.has_unfinished_requests():
        if not flights and not scheduler.has_unfinished_requests():
            now = max(now, waiting[0][1][0])
        while waiting and waiting[0][1][0] <= now:
            number, (_, prompt, output) = waiting.pop(0)
            ids = [number] * prompt if prompts is None else prompts[number]
            block_tokens = case["limits"]["block_tokens"]
            scheduler.add_request(request_of(number, ids, output, block_tokens))
        formed = False
        if len(flights) < depth and scheduler.has_unfinished_requests():
            flight = form(scheduler, flights[-1].end if flights else now, steps, drafts)
            formed = flight.decided.total_num_scheduled_tokens > 0
            if formed:
                flights.append(flight)
            else:
                scheduler.update_from_output(flight.decided, flight.output())
        if flights and (not formed or len(flights) == depth):
            over = flights.pop(0)
            now = over.end
            scheduler.update_from_output(over.decided, over.output())
            drafts.propose(over.emitting)
    return steps


def main() -> None:
    cases = json.load(sys.stdin)
    init_none_hash(sha256)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(TINY_LLAMA))
        model = ModelConfig(
            model=folder, skip_tokenizer_init=True, max_model_len=MAX_MODEL_LEN, dtype="bfloat16"
        )
        results = [run(model, case) for case in cases]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
