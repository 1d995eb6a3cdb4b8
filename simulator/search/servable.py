"""Which candidates' policies can serve the trace at all, before anything is simulated."""

from __future__ import annotations

from dataclasses import replace

from servecast.simulator.engine.policy import parse_policy
from servecast.simulator.reference.object_run import refusal
from servecast.simulator.search.pairs import Pairings
from servecast.simulator.search.space import Candidate, Infeasible, Placement, Space
from servecast.simulator.traffic.workload import Workload

POLICY = "the policy"
"""The constraint of what is refused here: some of a placement's candidates, with one reason for all."""


def servable(space: Space, workload: Workload) -> Space:
    """Without the candidates whose policy cannot: it wants a single stage, say, or keeps no prefixes."""
    kept: list[Placement] = []
    refused = list(space.infeasible)
    for placement in space.placements:
        reasons = [_refusal(candidate, placement, workload) for candidate in placement.candidates]
        able = zip(placement.candidates, reasons, strict=True)
        candidates = tuple(candidate for candidate, reason in able if reason is None)
        refused += [_miss(placement, reason) for reason in dict.fromkeys(reasons) if reason]
        if candidates:
            kept.append(replace(placement, candidates=candidates))
    return Space(tuple(kept), tuple(refused))


def servable_pairs(apart: Pairings) -> Pairings:
    """The same of prefill and decode apart: no class of a policy goes on from a prefill made elsewhere."""
    unable = [pairing for pairing in apart.kept if not parse_policy(pairing.policy).is_compiled]
    if not unable:
        return apart
    misses = {
        (pairing.decode.label, pairing.policy): _miss(
            pairing.decode,
            f"for decode apart: policy {pairing.policy!r} prefills every prompt itself",
        )
        for pairing in unable
    }
    return Pairings(
        tuple(pairing for pairing in apart.kept if pairing not in unable),
        {**apart.refused, POLICY: len(unable)},
        (*apart.infeasible, *misses.values()),
    )


def _refusal(candidate: Candidate, placement: Placement, workload: Workload) -> str | None:
    policy = parse_policy(candidate.policy)
    if policy.is_compiled:
        return None
    return refusal(policy, candidate.limits, placement.parallelism.pp, workload)


def _miss(placement: Placement, reason: str) -> Infeasible:
    return placement.refused(POLICY, reason)
