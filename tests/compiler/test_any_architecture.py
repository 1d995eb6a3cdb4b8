"""Architectures drawn at random: written as specs, compiled, counted and sharded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.compiler.architecture import Architecture, Latent, Moe
from servecast.compiler.attention import Attention, LatentAttention
from servecast.compiler.catalog import compile_text
from servecast.compiler.fmt import format_source
from servecast.compiler.program import Program
from servecast.compiler.shard import shard, tp_degrees
from servecast.compiler.sharded import Parallelism
from servecast.compiler.spec_writer import write_spec

sizes = st.sampled_from([4, 8, 12, 16])
flags = st.booleans()
moes = st.builds(
    Moe,
    experts=st.sampled_from([2, 4, 8]),
    choose=st.sampled_from([1, 2]),
    ffn=sizes,
    shared=st.none() | sizes,
    router_bias=flags,
    bias=flags,
    weights=st.none() | st.just("mxfp4"),
)
latents = st.builds(Latent, q_rank=sizes, kv_rank=sizes, rope=st.just(4), value=sizes)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Small ones, of every feature that goes with every other."""
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    layers = draw(st.integers(1, 7))
    latent = draw(st.none() | latents)
    parallel = draw(st.sampled_from([None, "one", "two"]))
    plain = parallel is not None  # one kind of layer, without experts
    moe = None if plain else draw(st.none() | moes)
    windows = st.lists(st.none() | st.just(32), min_size=layers, max_size=layers)
    return Architecture(
        hidden=draw(sizes),
        vocab=draw(st.integers(5, 40)),
        context=64,
        weights=draw(st.sampled_from(["bf16", "fp8 per block 128", "int4 group 4", "nvfp4"])),
        heads=kv_heads * draw(st.sampled_from([1, 2, 3])),
        kv_heads=kv_heads,
        head=draw(st.sampled_from([4, 8])),
        ffn=draw(sizes),
        activation=draw(st.sampled_from(["swiglu", "geglu", "gelu", "silu"])),
        windows=(None,) * layers if plain or latent else tuple(draw(windows)),
        tied=draw(flags),
        norm=draw(st.sampled_from(["rms_norm", "layer_norm"])),
        qkv_bias=draw(flags) and latent is None,
        o_bias=draw(flags) and latent is None,
        mlp_bias=draw(flags),
        head_bias=draw(flags),
        qk_norm=draw(flags) and latent is None,
        norms_after=draw(flags) and not plain,
        sinks=draw(flags) and latent is None,
        rotary_dims=None if latent else draw(st.none() | st.just(2)),
        parallel=parallel,
        moe=moe,
        dense_layers=draw(st.integers(0, layers)) if moe else 0,
        latent=latent,
    )


def count_parameters(arch: Architecture) -> int:
    """From the numbers alone, as one would on paper."""
    norm = arch.hidden * (2 if arch.norm == "layer_norm" else 1)
    attention = latent_parameters(arch, arch.latent) if arch.latent else attention_parameters(arch)
    layers = 0
    for i in range(len(arch.windows)):
        sparse = arch.moe is not None and i >= arch.dense_layers
        feed = moe_parameters(arch, arch.moe) if sparse and arch.moe else mlp(arch, arch.ffn)
        norms = 1 if arch.parallel == "one" else 2
        layers += attention + feed + norm * norms * (2 if arch.norms_after else 1)
    head = (0 if arch.tied else arch.vocab * arch.hidden) + (arch.vocab if arch.head_bias else 0)
    return arch.vocab * arch.hidden + layers + norm + head


def attention_parameters(arch: Architecture) -> int:
    q, kv = arch.heads * arch.head, arch.kv_heads * arch.head
    biases = (q + 2 * kv if arch.qkv_bias else 0) + (arch.hidden if arch.o_bias else 0)
    norms = 2 * arch.head if arch.qk_norm else 0
    sinks = arch.heads if arch.sinks else 0
    return arch.hidden * (2 * q + 2 * kv) + biases + norms + sinks


def latent_parameters(arch: Architecture, latent: Latent) -> int:
    down = arch.hidden * (latent.q_rank + latent.kv_rank + latent.rope)
    norms = latent.q_rank + latent.kv_rank
    queries = latent.q_rank * arch.heads * (arch.head + latent.rope)
    up = latent.kv_rank * arch.heads * (arch.head + latent.value)
    return down + norms + queries + up + arch.heads * latent.value * arch.hidden


def mlp(arch: Architecture, width: int, *, bias: bool | None = None) -> int:
    up = width * (2 if arch.activation in ("swiglu", "geglu") else 1)
    biases = up + arch.hidden if (arch.mlp_bias if bias is None else bias) else 0
    return arch.hidden * (up + width) + biases


def moe_parameters(arch: Architecture, moe: Moe) -> int:
    router = arch.hidden * moe.experts + (moe.experts if moe.router_bias else 0)
    shared = mlp(arch, moe.shared, bias=False) if moe.shared else 0
    return router + shared + moe.experts * mlp(arch, moe.ffn, bias=moe.bias)


def compiled(arch: Architecture) -> Program:
    return compile_text(write_spec("any", "", arch), "any.llm").model()


@settings(max_examples=80, deadline=None)
@given(arch=architectures())
def test_a_written_spec_has_the_parameters_and_layers_of_its_architecture(
    arch: Architecture,
) -> None:
    program = compiled(arch)
    assert program.parameters == count_parameters(arch)
    assert program.num_layers == len(arch.windows)
    seen = [
        site.op.window if isinstance(site.op, Attention) else None
        for run in program.layers
        for _ in range(run.count)
        for site in run.sites
        if isinstance(site.op, (Attention, LatentAttention))
    ]
    assert tuple(seen) == arch.windows


@settings(max_examples=60, deadline=None)
@given(arch=architectures())
def test_a_written_spec_is_canonical(arch: Architecture) -> None:
    text = write_spec("any", "", arch)
    assert format_source(text, "any.llm") == text


@settings(max_examples=60, deadline=None)
@given(arch=architectures(), pp=st.integers(1, 3))
def test_stages_and_ranks_hold_no_less_than_the_model(arch: Architecture, pp: int) -> None:
    program = compiled(arch)
    pp = min(pp, program.num_layers)
    whole = sum(run.count * s.op.weight_bytes for run in program.runs for s in run.sites)
    for tp in tp_degrees(program, 4):
        stages = shard(program, Parallelism(tp=tp, pp=pp)).stages
        held = sum(
            run.count * call.op.weight_bytes for s in stages for run in s.runs for call in run.calls
        )
        assert held * tp >= whole
        assert len(stages) == pp
