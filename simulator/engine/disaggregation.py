"""Prefill and decode on replicas of their own (DistServe, Splitwise), with KV sent over links.

A request's first token comes from a prefill replica. Its KV crosses that replica's link, or one that all of
them share, one request after another in the order of first tokens, and the request decodes where it arrives;
its first step there is timed as a prefill chunk of one token. Sent layer by layer, the KV of a layer can
leave when the prefill's last step has passed it, all layers taking equally long.

Nothing flows back, so the prefill fleet is simulated to its end and its transfers are the arrivals of the
decode fleet: exact as long as decode replicas do not hold prefill back. A prefill replica's blocks are free
with the first token, and found again where its limits say ``prefix_caching``. A decode replica keeps no
prefixes: every prompt's KV is sent whole, and one that it preempts is computed again there.

SOURCE: Zhong et al. 2024 (DistServe), section 3; Patel et al. 2024 (Splitwise), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.engine.records import Floats, LateTargets, Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.traffic.workload import Workload


@dataclass(frozen=True, slots=True)
class KvLink:
    """From the prefill to the decode replicas: one for each, or ``shared`` by all. ``layers`` is in how many
    parts KV leaves while the prefill runs; 1: all of it after the first token.

    Raises:
        UserError: no bandwidth, a negative latency, no layer.
    """

    kv_bytes_per_token: float
    bytes_per_s: float
    latency_s: float = 0.0
    layers: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or not self.latency_s >= 0:
            raise UserError(
                f"a KV link of {self.bytes_per_s:g} bytes/s and {self.latency_s:g} s latency: "
                "the bandwidth must be above 0, the latency 0 or more"
            )
        if self.layers < 1:
            raise UserError(f"a KV link of {self.layers} layers: there must be 1 or more")


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Prefill and decode replicas, and the links between them."""

    prefill: Fleet
    decode: Fleet
    link: KvLink


@dataclass(frozen=True, slots=True, eq=False)
class DisaggregatedRun:
    """Both fleets' records. ``decoded`` are the numbers of the requests in the decode fleet's records, which
    have the token after the first as their first; a request with one token is only in ``prefill``."""

    prefill: Records
    decode: Records | None  # None: no request asked for a second token
    decoded: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    transfer_s: Floats  # [requests] in the link and in its queue; NaN where nothing was sent
    broken_metric: str | None = None  # more was late than may be: the rest was not simulated

    @property
    def finish_s(self) -> Floats:
        finish_s = np.where(self.output_tokens > 1, np.nan, self.prefill.finish_s)
        if self.decode is not None:
            finish_s[self.decoded] = self.decode.finish_s
        return finish_s

    @property
    def queue_delay_s(self) -> Floats:
        """[requests] until a prefill replica's first batch and, when its KV is there, a decode replica's."""
        delay_s = self.prefill.scheduled_s - self.prefill.arrival_s
        if self.decode is not None:
            delay_s[self.decoded] += self.decode.scheduled_s - self.decode.arrival_s
        return delay_s

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Too long for either fleet's KV cache."""
        rejected = self.prefill.rejected.copy()
        if self.decode is not None:
            rejected[self.decoded] = self.decode.rejected
        return rejected


def run_disaggregated(
    engine: Engine,
    workload: Workload,
    fleets: Disaggregated,
    late: LateTargets | None = None,
    loaded_tokens: NDArray[np.int64] | None = None,
) -> DisaggregatedRun:
    """Simulate every request to its end, or until ``late`` is missed.

    The prefill replicas show what is late of their queue and of first tokens, the decode replicas what is of
    theirs and of gaps between tokens but those over the link: what breaks a target in part breaks it in all.
    ``loaded_tokens`` [requests] of the prompts need no prefill.

    Raises LivelockError.
    """
    first_only = replace(
        workload,
        output_tokens=np.ones(len(workload), np.int64),
        prefix=workload.prefix if fleets.prefill.limits.prefix_caching else None,
    )
    early, later = (None, None) if late is None else _by_pool(late)
    first = engine.run(first_only, fleets.prefill, early, loaded_tokens=loaded_tokens).copy()
    transfer_s = np.full(len(workload), np.nan)
    sent = np.flatnonzero(first.finished & (workload.output_tokens > 1))
    if len(sent) == 0 or first.given_up:
        none = sent[:0]
        broken = first.broken_metric
        return DisaggregatedRun(first, None, none, workload.output_tokens, transfer_s, broken)
    received_s = _received_s(first, workload, sent, fleets.link)
    transfer_s[sent] = received_s - first.first_token_s[sent]
    order = np.argsort(received_s, kind="stable")
    sent = sent[order]
    rest = replace(
        workload.take(sent, received_s[order]),
        prompt_tokens=workload.prompt_tokens[sent] + 1,
        output_tokens=workload.output_tokens[sent] - 1,
        prefix=None,
    )
    loaded = workload.prompt_tokens[sent]
    second = engine.run(rest, fleets.decode, later, loaded_tokens=loaded).copy()
    broken = second.broken_metric
    return DisaggregatedRun(first, second, sent, workload.output_tokens, transfer_s, broken)


def _by_pool(late: LateTargets) -> tuple[LateTargets, LateTargets]:
    """What each pool's run can tell: a finish in the prefill pool is no later than the request's, a wait in
    either no longer than in both."""
    later = LateTargets(
        queue_delay_s=late.queue_delay_s,
        max_late_queue_delay=late.max_late_queue_delay,
        tbt_s=late.tbt_s,
        max_late_gaps=late.max_late_gaps,
    )
    return replace(late, tbt_s=np.inf, steps_kept=True), later


def _received_s(
    first: Records, workload: Workload, sent: NDArray[np.int64], link: KvLink
) -> Floats:
    """When each request's KV is across: a link sends one request's at a time.

    Of n layers, the last can leave with the first token, and the first 1/n into the prefill's last step: the
    KV is across when all of it is, behind the first layer, and the last one, behind the first token.
    """
    ready_s = first.first_token_s[sent]
    a_token_s = link.kv_bytes_per_token / link.bytes_per_s
    busy_s = np.asarray(a_token_s * workload.prompt_tokens[sent], np.float64)
    begun_s: Floats = ready_s
    if link.layers > 1:
        begun_s = ready_s - _last_step_s(first, sent) * (1 - 1 / link.layers)
    received_s = np.empty(len(sent))
    through = np.zeros(len(sent)) if link.shared else first.replica[sent]
    for one in np.unique(through):
        mine = np.flatnonzero(through == one)
        mine = mine[np.argsort(ready_s[mine], kind="stable")]
        received_s[mine] = through_link(begun_s[mine], ready_s[mine], busy_s[mine], link.layers)
    return received_s + link.latency_s


def through_link(begun_s: Floats, ready_s: Floats, busy_s: Floats, layers: int) -> Floats:
    """When each is across, in order: its time behind the one before, or when it would be on a free link."""
    alone_s = np.maximum(begun_s + busy_s, ready_s + busy_s / layers)
    until_s = np.cumsum(busy_s)
    return np.asarray(until_s + np.maximum.accumulate(alone_s - until_s))


def _last_step_s(first: Records, sent: NDArray[np.int64]) -> Floats:
    """How long the step took that each of these requests had its first token from."""
    by_end = np.lexsort((first.lane, first.end_s))
    ends, lanes = first.end_s[by_end], first.lane[by_end] // first.stages
    took_s = (first.end_s - first.start_s)[by_end]
    found = {(end, lane): s for end, lane, s in zip(ends, lanes, took_s, strict=True)}
    mine = zip(first.first_token_s[sent], first.replica[sent], strict=True)
    return np.array([found[each] for each in mine])
