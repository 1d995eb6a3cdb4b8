"""One lowering function for each operator keyword: syntax in, sites on the flow out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from servecast.compiler import syntax as s
from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.flow import (
    PART_NORM,
    Context,
    Flow,
    Options,
    add_site,
    expect_groups,
    expect_whole,
    expect_width,
    feed,
    join,
    read_options,
    site_of,
)
from servecast.compiler.ir import (
    Activation,
    ActivationKind,
    Collective,
    CollectiveKind,
    KvWrite,
    Linear,
    Norm,
    NormKind,
    Rope,
    Sample,
)
from servecast.compiler.program import Site, Split
from servecast.compiler.sharded import Rows

LINEAR_OPTIONS = ("split", "bias", "tied", "at last_token", "keep", "weights", "activations", "as")


def lower_linear(context: Context, flow: Flow, op: s.Operation) -> None:
    options = read_options(context, "linear", op.options, LINEAR_OPTIONS)
    takes = context.positive(op.args[0], "width")
    puts = context.positive(op.args[1], "width")
    keep = options.size("keep") or 0
    expect_width(context, flow, takes + keep, op.at, "linear")
    head, formats = "at last_token" in options, context.formats
    linear = Linear(
        takes,
        puts,
        weights=options.format("weights", formats.wide if head else formats.weights),
        activations=options.format("activations", formats.wide if head else formats.activations),
        bias="bias" in options,
        tied="tied" in options,
    )
    expect_groups(context, linear.weights, takes, op.at)
    split = _linear_split(context, flow, op, options)
    rows = Rows.LAST_TOKENS if head else Rows.TOKENS
    name = options.word("as") or _linear_name(flow, head)
    groups = options.given["split"].size if "split" in options else None
    count = context.positive(groups, "by") if groups is not None else 0
    if count and puts % count:
        message = f"split columns by {count}: it does not divide {puts:,}"
        raise context.source.error(op.at, message)
    before = len(flow.sites)
    add_site(flow, Site(name, linear, split, rows, groups=count, line=op.at.line))
    flow.width, flow.kept = puts + keep, keep
    flow.split, flow.partial = split is Split.COLUMNS, split is Split.ROWS
    flow.since_split = before
    if head:
        _sample(context, flow, puts, op.at)


def _linear_split(context: Context, flow: Flow, op: s.Operation, options: Options) -> Split:
    word = options.word("split")
    if word == "rows":
        if not flow.split:
            message = f"split rows takes a row that is split by columns; line {flow.line} puts it out whole"
            raise context.source.error(options.given["split"].at, message)
        return Split.ROWS
    expect_whole(context, flow, op.at, "linear" if word is None else "split columns")
    return Split.COLUMNS if word == "columns" else Split.WHOLE


def _linear_name(flow: Flow, head: bool) -> str:
    if head:
        return "lm_head"
    match flow.sites[-1].op if flow.sites else None:
        case Attention() | LatentAttention() | DeltaAttention():
            return "o_proj"
        case Activation():
            return "o_proj" if flow.sites[-1].name == "attn_gate" else "down_proj"
        case _:
            return "linear"


def _sample(context: Context, flow: Flow, vocab: int, at: s.Span) -> None:
    """The head's logits meet on every rank, then each sequence gets its token."""
    if flow.split:
        gather = Collective(
            CollectiveKind.ALL_GATHER, vocab, 1, format=context.formats.communication
        )
        add_site(
            flow, Site("logits_all_gather", gather, Split.JOIN, Rows.LAST_TOKENS, line=at.line)
        )
        flow.split = False
    join(flow, context.formats)
    add_site(flow, Site("sample", Sample(vocab), rows=Rows.LAST_TOKENS, line=at.line))


def lower_norm(context: Context, flow: Flow, op: s.Operation) -> None:
    """``rms_norm w`` over whole rows, ``rms_norm n x w`` in place over ``n`` parts of each."""
    options = read_options(context, op.keyword, op.options, ("as",))
    kind, wide = NormKind(op.keyword), context.formats.wide
    name = options.word("as")
    if len(op.args) == 1:
        width = context.positive(op.args[0], "width")
        expect_width(context, flow, width, op.at, op.keyword)
        expect_whole(context, flow, op.at, op.keyword)
        norm = Norm(kind, width, activations=wide)
        add_site(flow, Site(name or op.keyword, norm, line=op.at.line))
        return
    parts, width = (context.positive(arg, "size") for arg in op.args)
    _expect_part(context, flow, parts * width, op.at, op.keyword)
    norm = Norm(kind, width, per_row=parts, activations=wide)
    add_site(flow, site_of(name or PART_NORM, norm, flow, op.at))


def _expect_part(context: Context, flow: Flow, width: int, at: s.Span, keyword: str) -> None:
    if width > flow.width:
        message = (
            f"{keyword} works on {width:,} numbers of each row, "
            f"but line {flow.line} puts out {flow.width:,}"
        )
        raise context.source.error(at, message)


def lower_rope(context: Context, flow: Flow, op: s.Operation) -> None:
    options = read_options(context, "rope", op.options, ("dims",))
    heads, dim = (context.positive(arg, "size") for arg in op.args)
    _expect_part(context, flow, heads * dim, op.at, "rope")
    rotary = options.size("dims") or dim
    if rotary > dim:
        message = f"rope turns {rotary} of a head's {dim} numbers"
        raise context.source.error(op.at, message)
    rope = Rope(heads, dim, rotary, activations=context.formats.wide)
    add_site(flow, site_of("rotary_emb", rope, flow, op.at))


def lower_activation(context: Context, flow: Flow, op: s.Operation) -> None:
    read_options(context, op.keyword, op.options, ())
    kind = ActivationKind(op.keyword)
    width = context.positive(op.args[0], "width")
    takes = width * (2 if kind.gated else 1)
    expect_width(context, flow, takes, op.at, op.keyword)
    if flow.sites and flow.sites[-1].name == "linear":
        up_name = "gate_up_proj" if kind.gated else "up_proj"
        flow.sites[-1] = replace(flow.sites[-1], name=up_name)
    activation = Activation(kind, width, activations=context.formats.wide)
    add_site(flow, site_of("act_fn", activation, flow, op.at))
    flow.width = width


def lower_attention(context: Context, flow: Flow, op: s.Operation) -> None:
    """Stores the new keys and values, then attends; ``gated``: by a sigmoid of as many numbers."""
    known = ("window", "sinks", "gated", "kv_cache")
    options = read_options(context, "attention", op.options, known)
    heads, kv_heads, dim = (context.positive(arg, "size") for arg in op.args)
    if heads % kv_heads:
        message = f"{heads} heads are no multiple of {kv_heads} KV heads"
        raise context.source.error(op.at, message)
    queries = 2 * heads if "gated" in options else heads
    expect_width(context, flow, (queries + 2 * kv_heads) * dim, op.at, "attention")
    attention = Attention(
        heads,
        kv_heads,
        dim,
        window=options.size("window"),
        sinks="sinks" in options,
        kv=options.format("kv_cache", context.formats.kv_cache),
        activations=context.formats.wide,
    )
    feed(flow, attention)
    write = site_of("kv_write", KvWrite(2 * kv_heads * dim, attention.kv), flow, op.at)
    add_site(flow, replace(write, feeds=attention))
    add_site(flow, site_of("attn", attention, flow, op.at))
    if "gated" in options:  # reads and writes what a SwiGLU does
        gate = Activation(ActivationKind.SWIGLU, heads * dim, activations=context.formats.wide)
        add_site(flow, site_of("attn_gate", gate, flow, op.at))
    flow.width = heads * dim


def lower_delta_attention(context: Context, flow: Flow, op: s.Operation) -> None:
    """Takes queries, keys, values, the output's gates, and two numbers a value head: decay and step."""
    read_options(context, "attention delta", op.options, ())
    heads, key_heads, dim = (context.positive(arg, "size") for arg in op.args)
    if heads % key_heads:
        message = f"{heads} value heads are no multiple of {key_heads} key heads"
        raise context.source.error(op.at, message)
    takes = 2 * (heads + key_heads) * dim + 2 * heads
    expect_width(context, flow, takes, op.at, "attention delta")
    attention = DeltaAttention(heads, key_heads, dim, activations=context.formats.wide)
    add_site(flow, site_of("attn", attention, flow, op.at))
    flow.width = heads * dim


def lower_latent_attention(context: Context, flow: Flow, op: s.Operation) -> None:
    """Latent attention with its up-projection of keys and values, in the absorbed form.

    Takes ``heads * (head + rope)`` query numbers and keeps of ``rank + rope``: DeepSeek-V2, arXiv
    2405.04434, section 2.1. The up-projection's work per token is the same absorbed or not.
    """
    options = read_options(context, "attention latent", op.options, ("value", "kv_cache"))
    heads, dim, rank, rope = (context.positive(arg, "size") for arg in op.args)
    value = options.size("value") or dim
    expect_width(context, flow, heads * (dim + rope) + rank + rope, op.at, "attention latent")
    formats = context.formats
    kv = options.format("kv_cache", formats.kv_cache)
    up = Linear(rank, heads * (dim + value), formats.weights, formats.activations)
    attention = LatentAttention(heads, rank, rope, dim, value, kv, formats.wide)
    rotary = Rope(heads + 1, dim + rope, rope, activations=formats.wide)
    add_site(flow, replace(site_of("rotary_emb", rotary, flow, op.at), feeds=attention))
    add_site(flow, replace(site_of("kv_b_proj", up, flow, op.at), groups=heads))
    add_site(flow, Site("kv_write", KvWrite(rank + rope, kv), line=op.at.line))
    add_site(flow, site_of("attn", attention, flow, op.at))
    flow.width, flow.kept = heads * value, 0


OPERATORS: dict[str, Callable[[Context, Flow, s.Operation], None]] = {
    "linear": lower_linear,
    "rms_norm": lower_norm,
    "layer_norm": lower_norm,
    "rope": lower_rope,
    "attention": lower_attention,
    "attention latent": lower_latent_attention,
    "attention delta": lower_delta_attention,
    **{kind.value: lower_activation for kind in ActivationKind},
}
