"""A Hugging Face config becomes the spec that a person wrote for the model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.compiler.catalog import compile_text
from servecast.compiler.cli import import_command
from servecast.compiler.errors import UserError
from servecast.compiler.fmt import format_source
from servecast.compiler.hf_families import read_config
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program
from servecast.compiler.spec_writer import write_spec

SHIPPED = {
    name: program
    for path in (Path(__file__).parents[2] / "spec").glob("*.llm")
    for name, program in load_spec(path).models.items()
}
CONFIGS = Path(__file__).parent / "configs"
# Configs as published, in a package of another project that the `silicon` extra installs.
PUBLISHED = {
    "Qwen--Qwen3-0.6B": "qwen3-0.6b",
    "Qwen--Qwen3-32B": "qwen3-32b",
    "Qwen--Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen--Qwen3-235B-A22B": "qwen3-235b-a22b",
    "deepseek-ai--DeepSeek-V3": "deepseek-v3",
    "meta-llama--Meta-Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama--Meta-Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama--Meta-Llama-3.1-405B": "llama-3.1-405b",
    "mistralai--Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "mistralai--Mixtral-8x22B-v0.1": "mixtral-8x22b",
    "openai--gpt-oss-20b": "gpt-oss-20b",
    "openai--gpt-oss-120b": "gpt-oss-120b",
}


def imported(path: Path, name: str) -> Program:
    config = json.loads(path.read_text(encoding="utf-8"))
    text = write_spec(name, "", read_config(config, path.name))
    assert format_source(text, name) == text
    return compile_text(text, name).model()


def assert_same(one: Program, other: Program) -> None:
    assert one.parameters == other.parameters
    assert one.context_tokens == other.context_tokens
    assert one.formats == other.formats
    assert one.runs == other.runs


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_a_config_gives_the_shipped_model(path: Path) -> None:
    assert_same(imported(path, path.stem), SHIPPED[path.stem])


@pytest.mark.parametrize("config", sorted(PUBLISHED))
def test_a_published_config_gives_the_shipped_model(config: str) -> None:
    package = find_spec("aiconfigurator_core")
    if package is None or package.origin is None:
        pytest.skip("the silicon extra is not installed")
    path = Path(package.origin).parent / "model_configs" / f"{config}_config.json"
    assert_same(imported(path, PUBLISHED[config]), SHIPPED[PUBLISHED[config]])


def test_every_shipped_model_is_imported_here() -> None:
    seen = {path.stem for path in CONFIGS.glob("*.json")} | set(PUBLISHED.values())
    by_hand = {"qwen3.5-397b-a17b"}  # the importer knows no linear attention
    assert {name for name in SHIPPED if not name.endswith("-mtp")} - by_hand == seen


def phi(**changes: object) -> dict[str, object]:
    published = json.loads((CONFIGS / "phi-2.json").read_text(encoding="utf-8"))
    return {**published, **changes}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (phi(qk_layernorm=True), "c.json: qk_layernorm is True; only False is understood"),
        (phi(num_hash_layers=2), "key 'num_hash_layers' is not understood: it may change the oper"),
        (phi(architectures=["PhiMoE"]), "architecture 'PhiMoE' is not understood; known: Llama"),
        (phi(architectures=None), "architectures must name the model's class, got None"),
        (phi(hidden_size="big"), "hidden_size must be a positive whole number, got 'big'"),
        (phi(torch_dtype="int7"), "torch_dtype 'int7' is not understood; known: bfloat16"),
        (phi(hidden_act="mish"), "hidden_act 'mish' is not understood; known: silu"),
        (phi(quantization_config={"quant_method": "x"}), "quant_method 'x' is not understood"),
        (phi(partial_rotary_factor=3), "partial_rotary_factor must be between 0 and 1, got 3"),
    ],
)
def test_what_is_not_understood_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(config, "c.json")


def test_kv_heads_that_do_not_divide_the_heads_are_named_as_the_file_names_them() -> None:
    falcon = json.loads((CONFIGS / "falcon-180b.json").read_text(encoding="utf-8"))
    message = "^c.json: num_attention_heads 232 is no multiple of num_kv_heads 3$"
    with pytest.raises(UserError, match=message):
        read_config({**falcon, "num_kv_heads": 3}, "c.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
sizes = st.sampled_from([0, 1, 3, 7, 10**6, 10**12, -1])


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(sorted(CONFIGS.glob("*.json"))), value=values | sizes, data=st.data())
def test_a_config_with_any_value_is_imported_or_refused(
    path: Path, value: object, data: st.DataObject
) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    key = data.draw(st.sampled_from([*sorted(config), "quantization_config", "layer_types"]))
    try:
        said = write_spec("any", "", read_config({**config, key: value}, "c.json"))
    except UserError as error:
        said = str(error)
    assert 'model "any"' in said or said.startswith("c.json:")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 7}, "num_attention_heads 32 is no multiple of num_key_value_heads 7"),
        ({"num_attention_heads": 33, "num_key_value_heads": 33}, "hidden_size 2560 is no multiple"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000; at most 1,000"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000; the largest understood"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}},
         "quantization_config: group_size must be a positive whole number, got -1"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]}},
         "weight_block_size must be two equal sizes, got \\[128, 64\\]"),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(phi(**changes), "c.json")


def test_an_odd_width_of_a_gated_layer_that_is_stated_in_two_halves_is_refused() -> None:
    config = json.loads((CONFIGS / "qwen-72b.json").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match="two halves and must be even, got 1"):
        read_config({**config, "intermediate_size": 1}, "c.json")


def test_layer_types_that_do_not_name_every_layer_are_refused() -> None:
    config = json.loads((CONFIGS / "qwen3-14b.json").read_text(encoding="utf-8"))
    config = {**config, "architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"]}
    with pytest.raises(UserError, match="layer_types must name each of the 40 layers"):
        read_config(config, "c.json")


def test_a_deepseek_router_without_correction_has_no_bias() -> None:
    config: dict[str, object] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 128},
        **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": 32},
        **{"kv_lora_rank": 16, "moe_intermediate_size": 32, "intermediate_size": 96},
        **{"n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    }
    greedy = read_config({**config, "topk_method": "greedy"}, "c.json").moe
    corrected = read_config({**config, "topk_method": "noaux_tc"}, "c.json").moe
    assert greedy is not None
    assert corrected is not None
    assert (greedy.router_bias, corrected.router_bias) == (False, True)


def test_the_command_prints_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "phi-2" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(phi()))
    output = CliRunner().invoke(import_command, [str(path)], catch_exceptions=False).output
    assert output.startswith('model "phi-2" {\n')
    assert compile_text(output, "phi").model().parameters == 2_779_683_840


def test_the_command_refuses_what_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    error = CliRunner().invoke(import_command, [str(path)]).exception
    assert isinstance(error, UserError)
    assert "config.json:1: not JSON" in str(error)
