"""An architecture as a spec in canonical form, as a person would have written it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from servecast.compiler.architecture import Architecture, Moe
from servecast.compiler.catalog import compile_text
from servecast.compiler.fmt import format_source

MAX_FOLD = 64  # layers of a pattern that repeats

_Layer = tuple[int | None, bool]  # its window, and whether it has experts


def model_name(source: str, folder: str) -> str:
    """A model's name in the pattern of the shipped specs, from its repository or its folder."""
    name = source.rstrip("/").split("/")[-1] or folder or "model"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "model"


def write_spec(name: str, source: str, arch: Architecture) -> str:
    """The text of a spec with this one model.

    Raises:
        SpecError: the architecture does not hold together; the message quotes the text.
    """
    source = re.sub(r'["\n\r]', "", source)  # a text of the language has no quotes inside
    name = re.sub(r'["\n\r]', "", name)
    layers = [(window, _is_sparse(arch, i)) for i, window in enumerate(arch.windows)]
    kinds = list(dict.fromkeys(layers))
    body = [
        f'source "{source}"' if source else "",
        f"context {arch.context}  # tokens",
        f"weights {arch.weights}",
        "",
        *_lets(arch),
        "",
        *_blocks(arch, kinds),
        "embedding vocab -> hidden",
        "",
        *_repeats(arch, layers, kinds),
        "",
        f"{arch.norm} hidden",
        f"linear hidden -> vocab  split columns  at last_token{_if(arch.tied, 'tied')}"
        f"{_if(arch.head_bias, 'bias')}",
    ]
    text = "\n".join([f'model "{name}" {{', *body, "}", ""])
    formatted = format_source(text, name)
    compile_text(formatted, f"the spec of {name}")
    return formatted


def _if(condition: bool, option: str) -> str:
    return f"  {option}" if condition else ""


def _is_sparse(arch: Architecture, layer: int) -> bool:
    return arch.moe is not None and layer >= arch.dense_layers


def _lets(arch: Architecture) -> list[str]:
    sizes = [f"hidden = {arch.hidden}", f"vocab = {arch.vocab}"]
    if arch.moe is None:
        sizes.insert(1, f"ffn = {arch.ffn}")
    else:
        sizes += [f"dense_ffn = {arch.ffn}"] if arch.dense_layers else []
        sizes.append(f"ffn = {arch.moe.ffn}")
        if arch.moe.shared is not None:
            sizes.append(f"shared_ffn = {arch.moe.shared}")
    grouped = arch.kv_heads != arch.heads and arch.latent is None
    heads = [f"heads = {arch.heads}", *([f"kv_heads = {arch.kv_heads}"] if grouped else [])]
    heads.append(f"head = {arch.head}")
    lines = [f"let {', '.join(sizes)}", f"let {', '.join(heads)}"]
    if arch.latent is not None:
        latent = arch.latent
        lines.append(
            f"let q_rank = {latent.q_rank}, kv_rank = {latent.kv_rank}, rotary = {latent.rope}"
        )
    return lines


def _blocks(arch: Architecture, kinds: Sequence[_Layer]) -> list[str]:
    """Blocks for the parts that layers of several kinds share; none where all layers are alike."""
    if len(kinds) == 1:
        return []
    lines: list[str] = []
    for window in dict.fromkeys(window for window, _ in kinds):
        lines += [f"block {_attention_name(window)} {{", *_attention(arch, window), "}"]
    for sparse in dict.fromkeys(sparse for _, sparse in kinds):
        lines += [f"block {_feed_name(sparse)} {{", *_feed(arch, sparse), "}"]
    return [*lines, ""]


def _attention_name(window: int | None) -> str:
    return "attend" if window is None else f"attend_near_{window}"


def _feed_name(sparse: bool) -> str:
    return "choose_experts" if sparse else "think"


def _repeats(arch: Architecture, layers: Sequence[_Layer], kinds: Sequence[_Layer]) -> list[str]:
    if len(kinds) == 1:
        window, sparse = kinds[0]
        inside = (
            _parallel(arch, window)
            if arch.parallel
            else _attention(arch, window) + _feed(arch, sparse)
        )
        return [f"repeat {len(layers)} {{", *inside, "}"]
    lines: list[str] = []
    left = list(layers)
    while left:
        length, times = _fold(left)
        lines += [f"repeat {times} {{", *_pattern(left[:length]), "}"]
        left = left[length * times :]
    return lines


def _pattern(layers: Sequence[_Layer]) -> list[str]:
    """The layers of one pass of a repeat, equal neighbours in a repeat of their own."""
    lines: list[str] = []
    left = list(layers)
    while left:
        window, sparse = left[0]
        same = next((i for i, layer in enumerate(left) if layer != left[0]), len(left))
        inside = [_attention_name(window), _feed_name(sparse)]
        lines += inside if same == 1 else [f"repeat {same} {{", *inside, "}"]
        left = left[same:]
    return lines


def _fold(layers: Sequence[_Layer]) -> tuple[int, int]:
    """(length, times) of the shortest pattern at the front that covers most layers."""
    best = (1, 1)
    for length in range(1, min(len(layers) // 2, MAX_FOLD) + 1):
        times = 1
        while layers[length * times : length * (times + 1)] == layers[:length]:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


def _attention(arch: Architecture, window: int | None) -> list[str]:
    after = [f"{arch.norm} hidden"] if arch.norms_after else []
    return ["residual {", f"{arch.norm} hidden", *_attention_core(arch, window), *after, "}"]


def _attention_core(arch: Architecture, window: int | None) -> list[str]:
    if arch.latent is not None:
        return _latent_core(arch)
    grouped = arch.kv_heads != arch.heads
    width = "(heads + 2*kv_heads) * head" if grouped else "3*heads*head"
    by, turned = ("kv_heads", "(heads + kv_heads)") if grouped else ("heads", "2*heads")
    norms = ["rms_norm heads x head", f"rms_norm {by} x head"] if arch.qk_norm else []
    dims = "" if arch.rotary_dims is None else f"  dims {arch.rotary_dims}"
    near = "" if window is None else f"  window {window}"
    return [
        f"linear hidden -> {width}  split columns by {by}{_if(arch.qkv_bias, 'bias')}",
        *norms,
        f"rope {turned} x head{dims}",
        f"attention {'heads/kv_heads' if grouped else 'heads'} x head{near}{_if(arch.sinks, 'sinks')}",
        f"linear heads*head -> hidden  split rows{_if(arch.o_bias, 'bias')}",
    ]


def _latent_core(arch: Architecture) -> list[str]:
    assert arch.latent is not None
    value = "" if arch.latent.value == arch.head else f"  value {arch.latent.value}"
    out = "head" if not value else str(arch.latent.value)
    return [
        "linear hidden -> q_rank + kv_rank + rotary  as fused_qkv_a_proj",
        "rms_norm 1 x q_rank  as q_a_layernorm",
        "rms_norm 1 x kv_rank  as kv_a_layernorm",
        "linear q_rank -> heads * (head + rotary)  split columns by heads"
        "  keep kv_rank + rotary  as q_b_proj",
        f"attention latent heads x head rank kv_rank rope rotary{value}",
        f"linear heads*{out} -> hidden  split rows",
    ]


def _feed(arch: Architecture, sparse: bool) -> list[str]:
    after = [f"{arch.norm} hidden"] if arch.norms_after else []
    if sparse:
        assert arch.moe is not None
        core = _experts(arch, arch.moe)
    else:
        core = _mlp(arch, "dense_ffn" if arch.dense_layers else "ffn", arch.mlp_bias)
    return ["residual {", f"{arch.norm} hidden", *core, *after, "}"]


def _mlp(arch: Architecture, width: str, bias: bool) -> list[str]:
    up = f"2*{width}" if arch.activation in ("swiglu", "geglu") else width
    return [
        f"linear hidden -> {up}  split columns{_if(bias, 'bias')}",
        f"{arch.activation} {width}",
        f"linear {width} -> hidden  split rows{_if(bias, 'bias')}",
    ]


def _experts(arch: Architecture, moe: Moe) -> list[str]:
    options = _if(moe.router_bias, "router bias") + _if(
        moe.weights is not None, f"weights {moe.weights}"
    )
    head = f"experts {moe.experts} choose {moe.choose}{options} {{"
    lines = [head, *_mlp(arch, "ffn", moe.bias), "}"]
    if moe.shared is not None:
        lines += ["always {", *_mlp(arch, "shared_ffn", bias=False), "}"]
    return lines


def _parallel(arch: Architecture, window: int | None) -> list[str]:
    own = [f"{arch.norm} hidden"] if arch.parallel == "two" else []
    shared = [] if own else [f"{arch.norm} hidden"]
    mlp = _mlp(arch, "ffn", arch.mlp_bias)
    attention = _attention_core(arch, window)
    both = ["parallel {", *own, *attention, "} {", *own, *mlp, "}"]
    return ["residual {", *shared, *both, "}"]
