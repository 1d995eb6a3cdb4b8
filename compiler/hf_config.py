"""The keys of a Hugging Face `config.json`, and what most families spell alike.

Every key is read, listed as without effect on the operators, or refused by name: a key that is
passed over in silence could change the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servecast.compiler.architecture import Architecture
from servecast.compiler.errors import UserError

# Keys that change neither shapes nor the number of operators.
_WORDS_WITHOUT_EFFECT = """
architectures model_type auto_map _name_or_path transformers_version use_cache torch_dtype dtype
bos_token_id eos_token_id pad_token_id decoder_start_token_id tokenizer_class
attention_dropout attn_dropout_prob hidden_dropout resid_pdrop embd_pdrop emb_dropout_prob dropout
initializer_range pretraining_tp output_router_logits router_aux_loss_coef aux_loss_alpha seq_aux
rms_norm_eps layer_norm_eps layer_norm_epsilon rope_theta rope_scaling rope_parameters
rope_local_base_freq rotary_emb_base rope_type rotary use_dynamic_ntk use_logn_attn
query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping cache_implementation
max_window_layers max_sequence_length initial_context_length original_max_position_embeddings
scoring_func topk_method topk_group n_group norm_topk_prob routed_scaling_factor ep_size
num_nextn_predict_layers swiglu_limit swiglu_alpha experts_per_token
fp32 fp16 bf16 use_flash_attn use_cache_quantization use_cache_kernel softmax_in_fp32
scale_attn_weights onnx_safe apply_residual_connection_post_layernorm
boi_token_index eoi_token_index image_token_index mm_tokens_per_image vision_config
"""
WITHOUT_EFFECT = frozenset(_WORDS_WITHOUT_EFFECT.split())
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}
GATED = {"silu": "swiglu", "gelu": "geglu"}


@dataclass(slots=True)
class Config:
    """A config that remembers which of its keys were read."""

    path: str
    values: Mapping[str, object]
    read: set[str] = field(default_factory=set)

    def error(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")

    def get(self, key: str, default: object = None) -> object:
        self.read.add(key)
        return self.values.get(key, default)

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; a missing one without a default is an error."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.error(f"{key} must be a positive whole number, got {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, got {value!r}")
        return value

    def refuse_unread(self) -> None:
        unread = sorted(set(self.values) - self.read - WITHOUT_EFFECT)
        if unread:
            raise self.error(f"key {unread[0]!r} is not understood: it may change the operators")

    def must_be(self, key: str, *allowed: object) -> None:
        """A key that only some values of are understood; absent is the first of them."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            shown = " or ".join(repr(each) for each in allowed)
            raise self.error(f"{key} is {value!r}; only {shown} is understood")


def text_values(values: Mapping[str, object], path: str) -> Mapping[str, object]:
    """A model that also sees keeps its language part in ``text_config``."""
    text = values.get("text_config")
    if text is None:
        return values
    if not isinstance(text, Mapping):
        raise UserError(f"{path}: text_config must be an object, got {text!r}")
    outer = {k: v for k, v in values.items() if k != "text_config" and k not in WITHOUT_EFFECT}
    dtypes = {k: v for k, v in values.items() if k in ("torch_dtype", "dtype")}
    return {**dtypes, **outer, **text}


def _weights(config: Config) -> str:
    """The format that weights are published in."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return _dtype(config)
    if not isinstance(quantization, Mapping):
        raise config.error(f"quantization_config must be an object, got {quantization!r}")
    method = quantization.get("quant_method")
    block = quantization.get("weight_block_size")
    if method == "fp8":
        return f"fp8 per block {block[0]}" if isinstance(block, list) and block else "fp8"
    if method in ("awq", "gptq") and quantization.get("bits") == 4:
        return f"int4 group {quantization.get('group_size', 128)}"
    if method == "mxfp4":
        return _dtype(config)  # the experts alone, which their family knows
    raise config.error(f"quantization_config with quant_method {method!r} is not understood")


def _dtype(config: Config) -> str:
    name = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    if name not in DTYPES:
        raise config.error(f"torch_dtype {name!r} is not understood; known: {', '.join(DTYPES)}")
    return DTYPES[str(name)]


def base_architecture(config: Config, *, gated: bool = True, tied: bool = False) -> Architecture:
    """What most families spell alike."""
    heads = config.size("num_attention_heads")
    hidden = config.size("hidden_size")
    layers = config.size("num_hidden_layers")
    act_key = "hidden_act" if "hidden_act" in config.values else "hidden_activation"
    activation = config.get(act_key, "silu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise config.error(f"{act_key} {activation!r} is not understood; known: {known}")
    plain = ACTIVATIONS[str(activation)]
    return Architecture(
        hidden=hidden,
        vocab=config.size("vocab_size"),
        context=config.size("max_position_embeddings", 131072),
        weights=_weights(config),
        heads=heads,
        kv_heads=config.size("num_key_value_heads", heads),
        head=config.size("head_dim", hidden // heads),
        ffn=config.size("intermediate_size", 4 * hidden),
        activation=GATED.get(plain, plain) if gated else plain,
        windows=(None,) * layers,
        tied=config.flag("tie_word_embeddings", tied),
    )


def layer_windows(config: Config, pattern: int | None = None) -> tuple[int | None, ...]:
    """Each layer's window: by ``layer_types``, by every ``pattern``-th layer being global, or none."""
    layers = config.size("num_hidden_layers")
    window = config.get("sliding_window")
    types = config.get("layer_types")
    if isinstance(types, list) and len(types) == layers:
        return tuple(_window(config, kind) for kind in types)
    if window is None:
        return (None,) * layers
    size = config.size("sliding_window")
    if pattern is None:
        return (size,) * layers
    return tuple(None if (i + 1) % pattern == 0 else size for i in range(layers))


def _window(config: Config, kind: object) -> int | None:
    if kind == "full_attention":
        return None
    if kind == "sliding_attention":
        return config.size("sliding_window")
    raise config.error(f"layer_types has {kind!r}; full_attention and sliding_attention are known")
