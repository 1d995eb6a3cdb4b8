"""The keys of a Hugging Face `config.json`, and what most families spell alike.

Every key is read, listed as without effect on the operators, or refused by name: a key that is
passed over in silence could change the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servecast.compiler.architecture import Architecture, Moe
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


MAX_SIZE = 10**9
MAX_LAYERS = 1000


def _shown(value: object) -> str:
    """A value as a message quotes it, long ones cut."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}…"


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
            raise self.error(f"{key} must be a positive whole number, got {_shown(value)}")
        if value > MAX_SIZE:
            raise self.error(f"{key} is {_shown(value)}; the largest understood is {MAX_SIZE:,}")
        return value

    def count(self, key: str) -> int:
        """A size that may be zero."""
        return 0 if self.get(key) == 0 else self.size(key)

    def word(self, key: str, default: str, known: Mapping[str, str]) -> str:
        """What a word of the config is called here."""
        value = self.get(key)
        word = default if value is None else value
        if not isinstance(word, str) or word not in known:
            raise self.error(f"{key} {_shown(word)} is not understood; known: {', '.join(known)}")
        return known[word]

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, got {_shown(value)}")
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
            raise self.error(f"{key} is {_shown(value)}; only {shown} is understood")


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
        raise config.error(f"quantization_config must be an object, got {_shown(quantization)}")
    inner = Config(f"{config.path}: quantization_config", quantization)
    method = quantization.get("quant_method")
    if method == "fp8":
        return _fp8(inner)
    if method in ("awq", "gptq") and quantization.get("bits") == 4:
        return f"int4 group {inner.size('group_size', 128)}"
    if method == "mxfp4":
        return _dtype(config)  # the experts alone, which their family knows
    raise config.error(f"quantization_config with quant_method {_shown(method)} is not understood")


def _fp8(quantization: Config) -> str:
    block = quantization.get("weight_block_size")
    if block is None:
        return "fp8"
    match block:
        case [int(side), int(other)] if 0 < side == other <= MAX_SIZE:
            return f"fp8 per block {side}"
    raise quantization.error(f"weight_block_size must be two equal sizes, got {_shown(block)}")


def _dtype(config: Config) -> str:
    key = "torch_dtype" if config.get("torch_dtype") is not None else "dtype"
    return config.word(key, "bfloat16", DTYPES)


def base_architecture(config: Config, *, gated: bool = True, tied: bool = False) -> Architecture:
    """What most families spell alike."""
    heads, hidden = config.size("num_attention_heads"), config.size("hidden_size")
    kv_heads = config.size("num_key_value_heads", heads)
    layers = config.size("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise config.error(
            f"num_hidden_layers is {layers:,}; at most {MAX_LAYERS:,} are understood"
        )
    if heads % kv_heads:
        raise config.error(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    if config.get("head_dim") is None and hidden % heads:
        raise config.error(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    act_key = "hidden_act" if "hidden_act" in config.values else "hidden_activation"
    plain = config.word(act_key, "silu", ACTIVATIONS)
    return Architecture(
        hidden=hidden,
        vocab=config.size("vocab_size"),
        context=config.size("max_position_embeddings", 131072),
        weights=_weights(config),
        heads=heads,
        kv_heads=kv_heads,
        head=config.size("head_dim", hidden // heads),
        ffn=config.size("intermediate_size", 4 * hidden),
        activation=GATED.get(plain, plain) if gated else plain,
        windows=(None,) * layers,
        tied=config.flag("tie_word_embeddings", tied),
    )


def read_moe(config: Config, experts_key: str, ffn: int) -> Moe:
    """Routed experts, whose number and choice are checked against each other."""
    experts, choose = config.size(experts_key), config.size("num_experts_per_tok")
    if choose > experts:
        raise config.error(f"num_experts_per_tok {choose} exceeds {experts_key} {experts}")
    return Moe(experts, choose, ffn)


def layer_windows(config: Config, pattern: int | None = None) -> tuple[int | None, ...]:
    """Each layer's window: by ``layer_types``, by every ``pattern``-th layer being global, or none."""
    layers = config.size("num_hidden_layers")
    window = config.get("sliding_window")
    types = config.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise config.error(f"layer_types must name each of the {layers} layers")
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
    raise config.error(
        f"layer_types has {_shown(kind)}; full_attention and sliding_attention are known"
    )
