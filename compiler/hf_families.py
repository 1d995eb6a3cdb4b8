"""A Hugging Face `config.json` as an architecture: one reading function for each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from servecast.compiler.architecture import Architecture, Latent
from servecast.compiler.errors import UserError
from servecast.compiler.hf_config import (
    Config,
    base_architecture,
    layer_windows,
    read_moe,
    text_values,
)


def read_config(values: Mapping[str, object], path: str) -> Architecture:
    """The architecture that a config describes.

    Raises:
        UserError: the family or a key is not understood, or a value is missing or wrong.
    """
    architectures = values.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise UserError(
            f"{path}: architectures must name the model's class, got {str(architectures)[:60]}"
        )
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{path}: architecture {name!r} is not understood; known: {known}")
    config = Config(path, text_values(values, path))
    architecture = FAMILIES[name](config)
    config.refuse_unread()
    return architecture


def _llama(config: Config) -> Architecture:
    bias = config.flag("attention_bias", False) or config.flag("bias", False)
    return replace(
        base_architecture(config),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        windows=layer_windows(config),
    )


def _qwen2(config: Config) -> Architecture:
    """Windows are declared but off unless ``use_sliding_window``."""
    config.must_be("use_sliding_window", False)
    config.get("sliding_window")
    config.get("layer_types")
    return replace(base_architecture(config), qkv_bias=True)


def _qwen3(config: Config) -> Architecture:
    bias = config.flag("attention_bias", False)
    config.must_be("use_sliding_window", False)
    config.get("sliding_window")
    config.get("layer_types")
    return replace(base_architecture(config), qk_norm=True, qkv_bias=bias, o_bias=bias)


def _qwen3_moe(config: Config) -> Architecture:
    config.must_be("decoder_sparse_step", 1)
    config.must_be("mlp_only_layers", [])
    config.must_be("qkv_bias", False)
    config.must_be("shared_expert_intermediate_size", 0)
    ffn = config.size("moe_intermediate_size")
    moe = read_moe(config, "num_experts", ffn)
    return replace(_qwen3(config), moe=moe)


def _mixtral(config: Config) -> Architecture:
    base = replace(base_architecture(config), windows=layer_windows(config))
    moe = read_moe(config, "num_local_experts", base.ffn)
    return replace(base, moe=moe)


def _deepseek_v3(config: Config) -> Architecture:
    base = base_architecture(config)
    nope, rope = config.size("qk_nope_head_dim"), config.size("qk_rope_head_dim")
    latent = Latent(
        config.size("q_lora_rank"), config.size("kv_lora_rank"), rope, config.size("v_head_dim")
    )
    ffn = config.size("moe_intermediate_size")
    moe = replace(
        read_moe(config, "n_routed_experts", ffn),
        shared=ffn * config.size("n_shared_experts", 1),
        router_bias=config.get("topk_method") == "noaux_tc",
    )
    config.must_be("attention_bias", False)
    config.must_be("moe_layer_freq", 1)
    dense = config.count("first_k_dense_replace")
    return replace(base, head=nope, latent=latent, moe=moe, dense_layers=dense)


def _gpt_oss(config: Config) -> Architecture:
    base = replace(base_architecture(config), windows=layer_windows(config), sinks=True)
    config.must_be("attention_bias", True)
    moe = replace(
        read_moe(config, "num_local_experts", base.ffn),
        router_bias=True,
        bias=True,
        weights="mxfp4" if config.get("quantization_config") is not None else None,
    )
    return replace(base, qkv_bias=True, o_bias=True, moe=moe)


def _gemma3(config: Config) -> Architecture:
    pattern = config.size("sliding_window_pattern", 6)
    config.must_be("attention_bias", False)
    vocab = {"vocab_size": 262208, "hidden_activation": "gelu_pytorch_tanh"}  # the class's own
    config.values = {**vocab, **config.values}
    base = replace(base_architecture(config, tied=True), windows=layer_windows(config, pattern))
    return replace(base, qk_norm=True, norms_after=True)


def _phi(config: Config) -> Architecture:
    base = base_architecture(config, gated=False)
    config.must_be("qk_layernorm", False)
    factor = config.get("partial_rotary_factor", 0.5)
    if not isinstance(factor, (int, float)) or not 0 < factor <= 1:
        raise config.error(f"partial_rotary_factor must be between 0 and 1, got {str(factor)[:60]}")
    return replace(
        base,
        norm="layer_norm",
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        rotary_dims=int(base.head * factor),
        parallel="one",
    )


def _falcon(config: Config) -> Architecture:
    """Checkpoints store the head beside the embedding, whatever the class would tie."""
    config.must_be("alibi", False)
    config.must_be("bias", False)
    config.must_be("parallel_attn", True)
    new = config.flag("new_decoder_architecture", False)
    config.values = {"hidden_act": "gelu", "max_position_embeddings": 2048, **config.values}
    stated = config.size("num_kv_heads", 1)  # the older design shares one, whatever it states
    kv_heads = stated if new else 1
    config.must_be("multi_query", True)
    base = replace(base_architecture(config, gated=False), kv_heads=kv_heads)
    if base.heads % kv_heads:
        raise config.error(
            f"num_attention_heads {base.heads} is no multiple of num_kv_heads {kv_heads}"
        )
    return replace(base, norm="layer_norm", parallel="two" if new else "one")


def _qwen(config: Config) -> Architecture:
    """``intermediate_size`` counts both halves of the gated layer."""
    config.must_be("no_bias", True)
    config.must_be("rotary_pct", 1.0)
    context = config.size("seq_length", 8192)
    config.get("max_position_embeddings")
    config.get("kv_channels")
    base = base_architecture(config)
    if base.ffn % 2:
        raise config.error(f"intermediate_size counts two halves and must be even, got {base.ffn}")
    return replace(base, ffn=base.ffn // 2, qkv_bias=True, context=context)


FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "InternLMForCausalLM": _llama,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "MixtralForCausalLM": _mixtral,
    "DeepseekV3ForCausalLM": _deepseek_v3,
    "GptOssForCausalLM": _gpt_oss,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "PhiForCausalLM": _phi,
    "FalconForCausalLM": _falcon,
    "QWenLMHeadModel": _qwen,
}
