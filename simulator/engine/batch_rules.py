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
from servecast.simulator.reference.trtllm_scheduler import GuaranteedNoEvict, MaxUtilization

Rules = Mapping[str, int]

NO_BUDGET = 1 << 40
"""More tokens than are in a batch."""


def _sarathi(_: Any) -> Rules:
    return {"whole_blocks": 1, "reserve_prompt": 1}


def _orca(scheduler: Any) -> Rules:
    """The longest length there is in blocks for each request, none more later."""
    return {
        "fixed_blocks": scheduler.reserve,
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


_RULES: dict[type, Callable[[Any], Rules]] = {
    Sarathi: _sarathi,
    Orca: _orca,
    StaticBatching: _static,
    MaxUtilization: _max_utilization,
    GuaranteedNoEvict: _no_evict,
}


def rules_of(scheduler: Scheduler, stages: int) -> Rules | None:
    """Of exactly this class: one derived from it may decide otherwise."""
    rules = _RULES.get(type(scheduler)) if stages == 1 else None
    return rules(scheduler) if rules else None


def set_rules(run: Run, rules: Rules) -> None:
    run.ruled = int(bool(rules.keys() & {"one_batch", "whole_prompts", "declared_tokens"}))
    for name, value in rules.items():
        setattr(run, name, value)
