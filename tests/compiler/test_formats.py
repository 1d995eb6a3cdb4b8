"""Number formats: scales counted in bytes, who keeps 16 bits, and operators that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servecast.compiler.attention import Attention
from servecast.compiler.catalog import compile_text
from servecast.compiler.formats import BF16, FP8, FP8_BLOCK, FP16, MXFP4, NVFP4, Format, int4
from servecast.compiler.ir import Collective, Experts, Operator
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program

SPEC = Path(__file__).parents[2] / "spec"

MODEL = """
model "m" {{
    context 8
    {settings}
    embedding 64 -> 16
    repeat 1 {{
        residual {{
            rms_norm 16
            linear 16 -> 48  split columns by 4
            rope 8 x 4
            attention 4 x 4
            linear 16 -> 16  split rows
        }}
        residual {{
            rms_norm 16
            experts 4 choose 2{experts} {{
                linear 16 -> 64  split columns
                swiglu 32
                linear 32 -> 16  split rows
            }}
        }}
    }}
    rms_norm 16
    linear 16 -> 64  split columns  at last_token
}}
"""


def model(settings: str = "", experts: str = "") -> Program:
    return compile_text(MODEL.format(settings=settings, experts=experts), "m.llm").model()


def named(program: Program, name: str) -> Operator:
    return next(site.op for run in program.runs for site in run.sites if site.name == name)


# 4096 weights with their scales, by hand.
@pytest.mark.parametrize(
    ("number_format", "num_bytes"),
    [
        (BF16, 8192),
        (FP8, 4096),
        (FP8_BLOCK, 4096 + 4),  # a quarter of a block still has its fp32 scale
        (NVFP4, 2048 + 256),  # an fp8 scale for every 16
        (MXFP4, 2048 + 128),  # an e8m0 scale for every 32
        (int4(128), 2048 + 2 * 32),  # an fp16 scale for every 128
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_scales_are_counted_in_bytes(number_format: Format, num_bytes: int) -> None:
    assert number_format.num_bytes(4096) == num_bytes


@given(
    elements=st.integers(0, 5000),
    bits=st.sampled_from([4, 8, 16]),
    block=st.sampled_from([1, 16, 7]),
)
def test_more_elements_never_take_fewer_bytes(elements: int, bits: int, block: int) -> None:
    number_format = Format("f", bits, scale_bits=8, scale_elements=block)
    assert number_format.num_bytes(elements + 1) >= number_format.num_bytes(elements)


def test_weights_concern_linear_layers_and_experts_alone() -> None:
    program = model("weights fp8 per block 128")
    assert named(program, "qkv_proj").weights == FP8_BLOCK
    assert named(program, "experts").weights == FP8_BLOCK
    for name in ("embed_tokens", "lm_head", "router"):
        assert named(program, name).weights == BF16, name


def test_activations_below_sixteen_bits_concern_what_enters_linear_layers() -> None:
    program = model("activations fp8")
    assert named(program, "qkv_proj").activations == FP8
    assert named(program, "experts").activations == FP8
    for name in ("input_layernorm", "attn", "lm_head"):
        assert named(program, name).activations == BF16, name


def test_cache_and_communication_keep_sixteen_bits_unless_they_are_named() -> None:
    formats = model("activations fp8").formats
    assert (formats.kv_cache, formats.communication) == (BF16, BF16)


def test_cache_and_communication_have_formats_of_their_own() -> None:
    program = model("kv_cache fp8\n    communication fp8")
    attention, joined = named(program, "attn"), named(program, "o_proj_all_reduce")
    assert isinstance(attention, Attention)
    assert isinstance(joined, Collective)
    assert attention.kv_bytes_per_token == 2 * 4 * 4
    assert joined.payload_bytes(rows=10) == 10 * 16
    assert named(model(), "o_proj_all_reduce").payload_bytes(rows=10) == 2 * 10 * 16


def test_one_operator_can_differ() -> None:
    program = model("weights fp16", experts="  weights mxfp4")
    experts = named(program, "experts")
    assert isinstance(experts, Experts)
    assert experts.weights == MXFP4
    assert named(program, "qkv_proj").weights == FP16
    matrices = 4 * 16 * (64 + 32)
    assert experts.weight_bytes == matrices // 2 + matrices // 32


def test_half_precision_weights_make_everything_half_precision() -> None:
    formats = model("weights fp16").formats
    assert {formats.activations, formats.kv_cache, formats.communication, formats.wide} == {FP16}


def test_deepseek_v3_has_a_scale_for_every_square_of_the_checkpoint() -> None:
    program = load_spec(SPEC / "deepseek-v3.llm").model()
    sites = [(run.count, site.op) for run in program.runs for site in run.sites]
    in_fp8 = sum(n * op.parameters for n, op in sites if getattr(op, "weights", None) == FP8_BLOCK)
    attention = 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128  # 2112 rows are 16.5 squares
    dense, expert = 3 * 144 * 56, 3 * 16 * 56
    scales = 61 * attention + 3 * dense + 58 * 257 * expert
    held = sum(n * op.weight_bytes for n, op in sites)
    assert held == in_fp8 + 4 * scales + 2 * (program.parameters - in_fp8)


def test_gpt_oss_120b_is_as_large_as_its_checkpoint() -> None:
    # The model card gives 60.8 GiB (arXiv 2508.10925, table 1).
    program = load_spec(SPEC / "gpt-oss.llm").model()
    weight_bytes = sum(
        run.count * site.op.weight_bytes for run in program.runs for site in run.sites
    )
    assert weight_bytes / 2**30 == pytest.approx(60.8, abs=0.05)
