"""What is asked of a search: the model, the space, the targets, the objective, and the defaults of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.program import Program
from servecast.compiler.service import Service, Slo
from servecast.compiler.suggest import did_you_mean
from servecast.simulator.search.confidence import DEFAULT_CONFIDENCE
from servecast.simulator.search.market import Market
from servecast.simulator.search.objective import GOODPUT_SHARE, OBJECTIVES, Objective
from servecast.simulator.search.pairs import Offer, Pairings, pairings
from servecast.simulator.search.rows import Row, slo_texts
from servecast.simulator.search.space import (
    AGGREGATED,
    DECLARED,
    DEFAULT_POLICY,
    DEFAULT_ROUTER,
    DISAGGREGATED,
    MODES,
    Axes,
    Space,
    enumerate_space,
)
from servecast.simulator.search.task import Demand
from servecast.simulator.traffic.workload import Workload

DEFAULT_TP = (1, 2, 4, 8)
DEFAULT_PP = (1,)
DEFAULT_EP = (1,)
DEFAULT_DP = (1,)
DEFAULT_MAX_NUM_SEQS = (64, 128, 256)
DEFAULT_MAX_BATCHED_TOKENS = (512, 2048, 8192)
DEFAULT_MAX_GPUS = 16
DEFAULT_OBJECTIVE = OBJECTIVES["qps_per_usd"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one model, in one precision or several, under one workload."""

    programs: Mapping[str, Program]  # by precision, in the order of the axis
    skus: Mapping[str, Sku]
    axes: Axes
    slos: tuple[Slo, ...]
    market: Market
    seed: int
    objective: Objective = DEFAULT_OBJECTIVE
    confidence: float = DEFAULT_CONFIDENCE
    several_traces: bool = False

    @property
    def balanced(self) -> bool:
        """Whether roles apart grow to where they give most requests per dollar (`PairTask`).

        One deployment is for all traces, and each would balance it another way: then only as far as it must.
        """
        return self.objective.higher_is_better and not self.several_traces

    @property
    def program(self) -> Program:
        return next(iter(self.programs.values()))

    def space(self, sequence_tokens: int) -> Space:
        """All that could be the answer, for requests that grow to so many tokens on average."""
        space = Space((), ())
        if AGGREGATED not in self.axes.modes:
            return space
        for precision, program in self.programs.items():
            found = enumerate_space(
                program, self.axes, self.skus, self.market.max_gpus, sequence_tokens
            )
            space += found.at(precision)
        return self._in_stock(space)

    def pairings(self, sequence_tokens: int) -> Pairings:
        """All pairs of a prefill and a decode placement, where they are to be apart."""
        found = Pairings()
        for precision, program in self.programs.items():
            offer = Offer(program, self.skus, self.market, sequence_tokens, precision)
            found += pairings(self.axes, offer)
        return found

    def _in_stock(self, space: Space) -> Space:
        """Without the placements that the market has no room for a single replica of."""
        why = [self.market.refusal(p.sku, p.parallelism.gpus) for p in space.placements]
        kept = tuple(p for p, no in zip(space.placements, why, strict=True) if no is None)
        refused = [p.refused(*no) for p, no in zip(space.placements, why, strict=True) if no]
        return Space(kept, (*space.infeasible, *refused))

    def demand(self, trace: Workload, searched: Workload) -> Demand:
        goodput = GOODPUT_SHARE if self.objective.name == "goodput" else None
        return Demand(trace, searched, self.slos, goodput, self.objective.name == "energy")

    def json(self) -> Row:
        return {
            "model": self.program.model,
            "source": self.program.source,
            "slos": slo_texts(self.slos),
            "axes": asdict(self.axes),
            "objective": self.objective.json(),
            "confidence": self.confidence,
            "max_gpus": self.market.max_gpus,
            "stock": dict(self.market.stock),
            "whole_nodes": self.market.whole_nodes,
            "seed": self.seed,
        }


def axes_of(service: Service | None, overrides: Service, default_skus: tuple[str, ...]) -> Axes:
    """The command line's values, else the service block's, else the defaults.

    Raises:
        UserError: an unknown mode.
    """

    def chosen(name: str, default: tuple[Any, ...]) -> tuple[Any, ...]:
        said = getattr(service, name) if service else ()
        return tuple(dict.fromkeys(getattr(overrides, name) or said or default))

    skus, modes = chosen("skus", default_skus), chosen("modes", (AGGREGATED,))
    for mode in modes:
        if mode not in MODES:
            hint = did_you_mean(mode, MODES)
            raise UserError(f"no serving mode {mode!r}{hint}; there are {', '.join(MODES)}")
    apart = DISAGGREGATED in modes
    if not apart and (overrides.prefill_skus or overrides.decode_skus):
        raise UserError(
            "--prefill-sku and --decode-sku are GPUs of roles apart; add --mode disaggregated"
        )
    return Axes(
        skus=skus,
        modes=modes,
        prefill_skus=chosen("prefill_skus", skus) if apart else (),
        decode_skus=chosen("decode_skus", skus) if apart else (),
        tp=chosen("tp", DEFAULT_TP),
        pp=chosen("pp", DEFAULT_PP),
        ep=chosen("ep", DEFAULT_EP),
        dp=chosen("dp", DEFAULT_DP),
        max_num_seqs=chosen("max_num_seqs", DEFAULT_MAX_NUM_SEQS),
        max_batched_tokens=chosen("max_batched_tokens", DEFAULT_MAX_BATCHED_TOKENS),
        policies=chosen("policies", (DEFAULT_POLICY,)),
        routers=chosen("routers", (DEFAULT_ROUTER,)),
        precisions=chosen("precisions", (DECLARED,)),
    )
