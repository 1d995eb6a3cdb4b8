"""Policies of other engines whose batches the compiled engine forms, too, by a few rules of its own.

What a class of `schedulers.py` decides is said here as fields of `state.Run`; tests hold the two equal.
Others stop their decodes for prompts or choose among them by what was emitted: they run request by request.
So do these with several pipeline stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servecast.simulator.engine.scheduling import Scheduler
from servecast.simulator.engine.state import Run
from servecast.simulator.reference.schedulers import Orca, Sarathi, StaticBatching
from servecast.simulator.reference.sglang_scheduler import (
    CLIP_MAX_NEW_TOKENS,
    RETRACT_DECODE_STEPS,
    SGLang,
)
from servecast.simulator.reference.trtllm_scheduler import GuaranteedNoEvict, MaxUtilization

Rules = Mapping[str, float]

NO_BUDGET = 1 << 40
"""More tokens than are in a batch."""
_FIXED_SHIFT = 40  # more than a request's tokens have bits


def _sarathi(_: Any) -> Rules:
    return {"whole_blocks": 1, "reserve_prompt": 1}


def _orca(scheduler: Any) -> Rules:
    """The longest length there is in blocks for each request, none more later."""
    return {
        "block_rounding": scheduler.reserve << _FIXED_SHIFT,  # whatever it holds
        "block_shift": _FIXED_SHIFT,
        "growing": 0,
        "max_batched_tokens": NO_BUDGET,
        "watermark_blocks": 0,
    }


def _static(scheduler: Any) -> Rules:
    return {**_orca(scheduler), "one_batch": 1}


def _max_utilization(scheduler: Any) -> Rules:
    return {
        "whole_prompts": int(not scheduler.chunked),
        "reserve_prompt": 1,
        "watermark_blocks": 0,
    }


def _no_evict(scheduler: Any) -> Rules:
    declared = scheduler.limits.declared_output_tokens
    return {**_max_utilization(scheduler), "declared_tokens": declared}


def _sglang(scheduler: Any) -> Rules | None:
    """Memory in tokens; in the order in which requests wait."""
    limits = scheduler.limits
    declared = limits.declared_output_tokens
    if scheduler.mixed or declared > CLIP_MAX_NEW_TOKENS:
        return None
    return {
        "prompts_first": 1,
        "ordered": 0,
        "block_tokens": 1,
        "block_rounding": 0,
        "block_shift": 0,
        "kv_blocks": limits.kv_blocks * limits.block_tokens,
        "estimated_tokens": declared,
        "first_ratio": scheduler.ratio,
        "least_ratio": scheduler.least_ratio,
        "ratio_decay": scheduler.decay,
        "retract_steps": RETRACT_DECODE_STEPS,
    }


_RULES: dict[type, Callable[[Any], Rules | None]] = {
    Sarathi: _sarathi,
    Orca: _orca,
    StaticBatching: _static,
    MaxUtilization: _max_utilization,
    GuaranteedNoEvict: _no_evict,
    SGLang: _sglang,
}


def rules_of(scheduler: Scheduler, stages: int, prefixes: bool) -> Rules | None:
    """Of exactly this class: one derived from it may decide otherwise. ``prefixes``: prompts share some."""
    rules = _RULES.get(type(scheduler)) if stages == 1 else None
    if rules is None or (prefixes and isinstance(scheduler, SGLang)):
        return None
    return rules(scheduler)


def set_rules(run: Run, rules: Rules) -> None:
    if "prompts_first" in rules:
        run.max_waiting = run.num_requests
    run.ruled = int(bool(rules.keys() & {"one_batch", "whole_prompts", "declared_tokens"}))
    for name, value in rules.items():
        setattr(run, name, value)
