"""Mixtures of experts: a router and grouped experts from `experts N choose K { … }`."""

from __future__ import annotations

from servecast.compiler import syntax as s
from servecast.compiler.flow import (
    Context,
    Flow,
    add_site,
    expect_groups,
    expect_whole,
    expect_width,
    read_options,
)
from servecast.compiler.ir import ActivationKind, Experts, Router
from servecast.compiler.program import Site, Split

EXPERT_FORM = "an expert is { linear …  an activation  linear … }"


def lower_routed(context: Context, flow: Flow, op: s.ExpertsOperation) -> None:
    """Adds the router and the experts; the row stays a partial sum where the experts are split."""
    options = read_options(context, "experts", op.options, ("router bias", "weights", "as"))
    count = context.positive(op.count, "the number of experts")
    choose = context.positive(op.choose, "choose")
    if choose > count:
        raise context.source.error(op.at, f"choose {choose} of {count} experts")
    expect_whole(context, flow, op.at, "experts")
    first, activation, second = _expert_parts(context, op)
    hidden, intermediate, kind = _expert_sizes(context, flow, first, activation, second)
    biased = _agree(context, first, second, "bias")
    split = _agree(context, first, second, "split")
    formats = context.formats
    experts = Experts(
        hidden,
        intermediate,
        experts=count,
        total_experts=count,
        top_k=choose,
        activation=kind,
        weights=options.format("weights", formats.weights),
        activations=formats.activations,
        bias=biased,
    )
    for part, features in ((first, hidden), (second, intermediate)):
        expect_groups(context, experts.weights, features, part.at)
    router = Router(hidden, count, choose, "router bias" in options, formats.wide)
    add_site(flow, Site("router", router, line=op.at.line))
    cut = Split.ROWS if split else Split.WHOLE
    add_site(flow, Site(options.word("as") or "experts", experts, cut, line=op.at.line))
    flow.partial = split


def _expert_parts(
    context: Context, op: s.ExpertsOperation
) -> tuple[s.Operation, s.Operation, s.Operation]:
    kinds = {kind.value for kind in ActivationKind}
    match op.body:
        case (
            s.Operation(keyword="linear") as first,
            s.Operation(keyword=keyword) as activation,
            s.Operation(keyword="linear") as second,
        ) if keyword in kinds:
            return first, activation, second
    raise context.source.error(op.at, EXPERT_FORM)


def _expert_sizes(
    context: Context, flow: Flow, first: s.Operation, activation: s.Operation, second: s.Operation
) -> tuple[int, int, ActivationKind]:
    """Hidden width, intermediate width, activation; the three widths checked against each other."""
    kind = ActivationKind(activation.keyword)
    hidden, up = (context.positive(arg, "width") for arg in first.args)
    intermediate = context.positive(activation.args[0], "width")
    down, out = (context.positive(arg, "width") for arg in second.args)
    expect_width(context, flow, hidden, first.at, "linear")
    row = Flow(up, first.at.line)
    expect_width(
        context, row, intermediate * (2 if kind.gated else 1), activation.at, activation.keyword
    )
    expect_width(context, Flow(intermediate, activation.at.line), down, second.at, "linear")
    if out != hidden:
        message = f"the expert puts out {out:,}, but takes {hidden:,} on line {first.at.line}"
        raise context.source.error(second.at, message)
    return hidden, intermediate, kind


def _agree(context: Context, first: s.Operation, second: s.Operation, keyword: str) -> bool:
    """Whether both linear layers have the option; one alone is an error."""
    allowed = ("split", "bias")
    both = [
        read_options(context, "an expert's linear", op.options, allowed) for op in (first, second)
    ]
    if (keyword in both[0]) != (keyword in both[1]):
        at = (second if keyword in both[0] else first).at
        raise context.source.error(at, f"both linears of an expert have {keyword}, or neither")
    if keyword == "split" and keyword in both[0]:
        for options, which, word in zip(
            both, ("first", "second"), ("columns", "rows"), strict=True
        ):
            if options.word("split") != word:
                at = options.given["split"].at
                raise context.source.error(at, f"the {which} linear of an expert splits {word}")
    return keyword in both[0]
