"""A program cut for one parallelism: what every rank of every pipeline stage runs.

Tensor parallelism follows Megatron-LM (Shoeybi et al. 2019, section 3) as vLLM has it: columns then
rows and one all-reduce, vocabulary-parallel embedding and head, KV heads replicated where there are
fewer than ranks. Pipeline stages get layers by vLLM's rule (vllm/distributed/utils.py,
``get_pp_indices``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from servecast.compiler.errors import ShardError
from servecast.compiler.ir import (
    Activation,
    Add,
    Attention,
    Call,
    Collective,
    CollectiveKind,
    Embedding,
    Experts,
    KvWrite,
    LatentAttention,
    Linear,
    Norm,
    Operator,
    Parallelism,
    Rope,
    Router,
    Run,
    Sample,
    ShardedProgram,
    Stage,
)
from servecast.compiler.program import Program, Site, Split

MAX_TP_TRIED = 64  # when an error lists the degrees that work


class _Indivisible(Exception):
    """An operator's dimension that a degree does not divide; the caller knows the model."""


def shard(program: Program, parallelism: Parallelism) -> ShardedProgram:
    """What each rank runs. Sharding by 1 changes nothing.

    Raises:
        ShardError: a degree does not divide the model.
    """
    _check_degrees(program, parallelism)
    try:
        prologue = _run("prologue", program.prologue, 1, parallelism)
        layers = [_run(r.name, r.sites, r.count, parallelism) for r in program.layers]
        epilogue = _run("epilogue", program.epilogue, 1, parallelism)
    except _Indivisible as error:
        works = ", ".join(map(str, tp_degrees(program, MAX_TP_TRIED)))
        message = f"{program.model}: {error}; tp degrees that work: {works}"
        raise ShardError(message) from None
    counts = layers_per_stage(program.num_layers, parallelism.pp)
    stages = []
    for index, runs in enumerate(_deal(layers, counts)):
        first, last = index == 0, index == parallelism.pp - 1
        send = Run("send", (Call("send", _send(program)),))
        runs = [*([prologue] if first else []), *runs, epilogue if last else send]
        stages.append(Stage(index, tuple(runs)))
    return ShardedProgram(
        program.model,
        program.context_tokens,
        parallelism,
        tuple(stages),
        tuple(_notes(program, parallelism, counts)),
    )


def tp_degrees(program: Program, limit: int) -> list[int]:
    """The tensor-parallel degrees up to ``limit`` that divide the model."""
    degrees = []
    for tp in range(1, limit + 1):
        try:
            for run in program.runs:
                _run(run.name, run.sites, 1, Parallelism(tp=tp))
        except _Indivisible:
            continue
        degrees.append(tp)
    return degrees


def layers_per_stage(num_layers: int, pp: int) -> list[int]:
    """Layers of each stage; of those left over, the stages before the last get one each."""
    counts = [num_layers // pp] * pp
    for i in range(2, num_layers % pp + 2):
        counts[-i] += 1
    return counts


def _check_degrees(program: Program, parallelism: Parallelism) -> None:
    for name in ("tp", "pp", "ep", "dp"):
        degree = getattr(parallelism, name)
        if degree < 1:
            raise ShardError(f"{program.model}: {name} must be at least 1, got {degree}")
    if parallelism.pp > program.num_layers:
        raise ShardError(
            f"{program.model}: pp {parallelism.pp} exceeds the {program.num_layers} layers; "
            f"pp degrees that work: 1 to {program.num_layers}"
        )


def _send(program: Program) -> Collective:
    return Collective(CollectiveKind.SEND, program.hidden, 2, "pp", program.formats.communication)


def _deal(layers: list[Run], counts: list[int]) -> list[list[Run]]:
    """Runs of layers cut at the stages' borders."""
    left = [(run, run.count) for run in layers][::-1]
    stages: list[list[Run]] = []
    for count in counts:
        stage: list[Run] = []
        while count:
            run, available = left.pop()
            taken = min(count, available)
            stage.append(replace(run, count=taken))
            count -= taken
            if taken < available:
                left.append((run, available - taken))
        stages.append(stage)
    return stages


def _run(name: str, sites: tuple[Site, ...], count: int, parallelism: Parallelism) -> Run:
    calls = []
    for site in sites:
        op = _cut(site, parallelism)
        if op is not None:
            calls.append(Call(site.name, op, site.rows))
    return Run(name, tuple(calls), count)


def _cut(site: Site, parallelism: Parallelism) -> Operator | None:
    """A rank's share of a site, or None where a single rank has nothing to say to others."""
    tp = parallelism.tp
    if site.split is Split.JOIN:
        assert isinstance(site.op, Collective)
        return _collective(site.op, tp)
    if tp == 1 or site.split is Split.WHOLE:
        return site.op
    return _share(site, tp)


def _collective(op: Collective, tp: int) -> Collective | None:
    if tp == 1:
        return None
    gathers = op.kind is CollectiveKind.ALL_GATHER
    return replace(op, degree=tp, elements=_padded(op.elements, tp) if gathers else op.elements)


def _share(site: Site, tp: int) -> Operator:  # noqa: C901  # one case an operator
    op, where = site.op, f"{site.name} (line {site.line})"
    match op:
        case Linear():
            return _linear_share(op, site, tp, where)
        case Embedding():
            return replace(op, vocab=_padded(op.vocab, tp))
        case Attention():
            return replace(op, heads=_heads(op, tp, where), kv_heads=_kv_heads(op, tp, where))
        case LatentAttention():
            return replace(op, heads=_divided(op.heads, tp, "heads", where))
        case Norm():
            return replace(op, per_row=_parts(op.per_row, site, tp, where))
        case Rope():
            return replace(op, heads=_parts(op.heads, site, tp, where))
        case KvWrite():
            return replace(op, width=_kv_width(op, site, tp, where))
        case Activation():
            return replace(op, width=_divided(op.width, tp, "numbers a row", where))
        case Experts():
            share = _divided(op.intermediate, tp, "intermediate numbers", where)
            return replace(op, intermediate=share)
        case Add() | Router() | Sample() | Collective():
            return op
        case _:
            assert_never(op)


def _divided(size: int, tp: int, what: str, where: str) -> int:
    if size % tp:
        raise _Indivisible(f"{where} has {size:,} {what}, which tp {tp} does not divide")
    return size // tp


def _padded(size: int, tp: int) -> int:
    """Vocabularies are padded where they do not divide."""
    return -(-size // tp)


def _heads(op: Attention, tp: int, where: str) -> int:
    return _divided(op.heads, tp, "heads", where)


def _kv_heads(op: Attention, tp: int, where: str) -> int:
    """At least one: with more ranks than KV heads, each head is held by several ranks."""
    if tp > op.kv_heads:
        if tp % op.kv_heads:
            raise _Indivisible(f"{where} has {op.kv_heads} KV heads, which do not divide tp {tp}")
        return 1
    return _divided(op.kv_heads, tp, "KV heads", where)


def _parts(parts: int, site: Site, tp: int, where: str) -> int:
    """A rank's share of the heads that a norm or rope works on, in place, before attention."""
    match site.feeds:
        case Attention() as attention:
            heads, kv_heads = _heads(attention, tp, where), _kv_heads(attention, tp, where)
            shares = {
                attention.heads: heads,
                attention.kv_heads: kv_heads,
                attention.heads + attention.kv_heads: heads + kv_heads,
            }
            return shares[parts] if parts in shares else _divided(parts, tp, "heads", where)
        case LatentAttention() as latent:  # the shared rotary key is turned by every rank
            return _divided(latent.heads, tp, "heads", where) + parts - latent.heads
        case _:
            return _divided(parts, tp, "parts", where)


def _kv_width(op: KvWrite, site: Site, tp: int, where: str) -> int:
    if isinstance(site.feeds, Attention):
        return op.width // site.feeds.kv_heads * _kv_heads(site.feeds, tp, where)
    return op.width


def _linear_share(op: Linear, site: Site, tp: int, where: str) -> Linear:
    if site.split is Split.ROWS:
        share = _divided(op.in_features, tp, "input features", where)
        return replace(op, in_features=share)
    if site.name == "lm_head":
        return replace(op, out_features=_padded(op.out_features, tp))
    if isinstance(site.feeds, Attention):
        return replace(op, out_features=_qkv_features(op, site.feeds, tp, where))
    _divided(site.groups or op.out_features, tp, "parts" if site.groups else "outputs", where)
    return replace(op, out_features=op.out_features // tp)


def _qkv_features(op: Linear, attention: Attention, tp: int, where: str) -> int:
    heads, kv_heads = _heads(attention, tp, where), _kv_heads(attention, tp, where)
    return (heads + 2 * kv_heads) * attention.head_dim


def _notes(program: Program, parallelism: Parallelism, counts: list[int]) -> list[str]:
    notes = []
    kv_heads = sorted(
        {
            site.op.kv_heads
            for run in program.layers
            for site in run.sites
            if isinstance(site.op, Attention) and site.op.kv_heads < parallelism.tp
        }
    )
    for count in kv_heads:
        ranks = parallelism.tp // count
        notes.append(f"{count} KV heads over tp {parallelism.tp}: each is held by {ranks} ranks")
    if len(set(counts)) > 1:
        notes.append(
            f"pp {parallelism.pp} gives uneven stages: {', '.join(map(str, counts))} layers"
        )
    return notes
