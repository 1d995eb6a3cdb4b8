"""Where a model's layers begin and end, what they are called, and which additions norms take in.

A layer is one attention with what follows it up to the next attention, within the repeats. What
stands before the first repeat is the prologue, after the last one the epilogue.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from servecast.compiler.ir import Add, Norm, NormKind, SequenceOperator
from servecast.compiler.program import LayerRun, Site

Chunk = tuple[Site, ...]
"""Sites that belong together: a residual, or the operators between two residuals."""

# Hugging Face's names for a layer's norms over whole rows, by how many there are.
_NORM_NAMES = {
    1: ("input_layernorm",),
    2: ("input_layernorm", "post_attention_layernorm"),
    4: (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}


def find_layers(
    prologue: list[Chunk], body: list[Chunk], epilogue: list[Chunk]
) -> tuple[Chunk, tuple[LayerRun, ...], Chunk]:
    """Prologue, runs of identical layers, epilogue, with residual additions fused."""
    before = tuple(site for chunk in prologue for site in chunk)
    after = tuple(
        replace(site, name="norm") if _is_whole_norm(site) else site
        for chunk in epilogue
        for site in chunk
    )
    layers = [_named(layer) for layer in _cut(body)]
    layers, after = _fuse(layers, after)
    runs = [(layer, len(list(group))) for layer, group in groupby(layers)]
    names = _run_names([layer for layer, _ in runs])
    return (
        before,
        tuple(LayerRun(names[layer], layer, count) for layer, count in runs),
        after,
    )


def _cut(body: list[Chunk]) -> list[Chunk]:
    layers: list[list[Site]] = []
    attends = True  # so that the first chunk opens a layer
    for chunk in body:
        has_attention = any(isinstance(site.op, SequenceOperator) for site in chunk)
        if not layers or (has_attention and attends):
            layers.append([])
            attends = False
        attends = attends or has_attention
        layers[-1].extend(chunk)
    return [tuple(layer) for layer in layers]


def _is_whole_norm(site: Site) -> bool:
    return isinstance(site.op, Norm) and site.name == site.op.kind.value


def _named(layer: Chunk) -> Chunk:
    norms = [i for i, site in enumerate(layer) if _is_whole_norm(site)]
    names = _NORM_NAMES.get(len(norms), tuple(f"norm_{i}" for i in range(len(norms))))
    called = dict(zip(norms, names, strict=True))
    return tuple(replace(s, name=called[i]) if i in called else s for i, s in enumerate(layer))


def _fuses(site: Site | None) -> bool:
    """An RMS norm of whole rows takes the addition before it in, as serving engines' kernels do."""
    return site is not None and isinstance(site.op, Norm) and _can_add(site.op)


def _can_add(norm: Norm) -> bool:
    return norm.kind is NormKind.RMS and norm.per_row == 1


def _fuse(layers: list[Chunk], after: Chunk) -> tuple[list[Chunk], Chunk]:
    """The first layer is written like its siblings, as if an addition stood before it."""
    ends_added = bool(layers) and bool(layers[-1]) and isinstance(layers[-1][-1].op, Add)
    fused = []
    for i, layer in enumerate(layers):
        following = layers[i + 1] if i + 1 < len(layers) else after
        previous = layers[i - 1] if i else layers[-1]
        added_before = isinstance(previous[-1].op, Add)
        fused.append(_fuse_sites(layer, added_before, following[0] if following else None))
    return fused, _fuse_sites(after, ends_added, None)


def _fuse_sites(sites: Chunk, added_before: bool, following: Site | None) -> Chunk:
    result: list[Site] = []
    for i, site in enumerate(sites):
        successor = sites[i + 1] if i + 1 < len(sites) else following
        if isinstance(site.op, Add) and site.name == "residual_add" and _fuses(successor):
            continue
        after_add = isinstance(sites[i - 1].op, Add) if i else added_before
        if after_add and isinstance(site.op, Norm) and _fuses(site):
            site = replace(site, op=replace(site.op, adds_residual=True))
        result.append(site)
    return tuple(result)


def _run_names(layers: list[Chunk]) -> dict[Chunk, str]:
    """``layer``, or ``layer_a``, ``layer_b``, … where layers differ."""
    distinct = list(dict.fromkeys(layers))
    if len(distinct) == 1:
        return {distinct[0]: "layer"}
    return {layer: f"layer_{_letters(i)}" for i, layer in enumerate(distinct)}


def _letters(index: int) -> str:
    letters = ""
    while index >= 0:
        letters = chr(ord("a") + index % 26) + letters
        index = index // 26 - 1
    return letters
