"""Samples on their way out: in groups while they are taken, as an outcome at their end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from servecast.agent.messages import Conditions, Outcome, Samples, Status
from servecast.agent.stopping import Flag, judge, summarise
from servecast.agent.timing import Sampling

REPORT_EVERY_S = 0.1  # samples travel together for so long


def batched(samples_us: Iterator[float]) -> Iterator[Samples]:
    """Samples in groups that go out about every ``REPORT_EVERY_S``."""
    group: list[float] = []
    sent = time.monotonic()
    for runtime_us in samples_us:
        group.append(runtime_us)
        if time.monotonic() - sent >= REPORT_EVERY_S:
            yield Samples(tuple(group))
            group, sent = [], time.monotonic()
    if group:
        yield Samples(tuple(group))


def outcome_of(
    sampling: Sampling, method: str, rotation: int, before: Conditions, after: Conditions
) -> Outcome:
    """What samples that ended for a reason come to."""
    assert sampling.reason is not None
    flags = judge(sampling.samples_us, sampling.reason)
    if before.throttle_reasons or after.throttle_reasons:
        flags = tuple(sorted((*flags, Flag.THROTTLED)))
    return Outcome(
        status=Status.MEASURED,
        statistics=summarise(sampling.samples_us),
        stop_reason=sampling.reason,
        method=method,
        launches_per_sample=sampling.launches,
        rotated_buffers=rotation,
        flags=flags,
        before=before,
        after=after,
    )
