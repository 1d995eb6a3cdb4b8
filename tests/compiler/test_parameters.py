"""Every shipped model has the parameters of its published checkpoint, to the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.compiler.load import load_spec
from servecast.compiler.program import Program

SPEC = Path(__file__).parents[2] / "spec"

# Sources. "safetensors": the parameter total on the Hugging Face page of the checkpoint, which is not
# fetched here; every one equals what follows from the config.json. "config": derived from the
# config.json alone, by the sum written beside it.
PUBLISHED = [
    ("llama-3.1-8b", "llama.llm", 8_030_261_248, "safetensors meta-llama/Llama-3.1-8B"),
    ("llama-3.1-70b", "llama.llm", 70_553_706_496, "safetensors meta-llama/Llama-3.1-70B"),
    ("llama-3.1-405b", "llama.llm", 405_853_388_800, "safetensors meta-llama/Llama-3.1-405B"),
    ("llama-2-7b", "llama.llm", 6_738_415_616, "safetensors meta-llama/Llama-2-7b-hf"),
    ("llama-2-70b", "llama.llm", 68_976_648_192, "safetensors meta-llama/Llama-2-70b-hf"),
    ("codellama-34b", "llama.llm", 33_743_970_304, "safetensors codellama/CodeLlama-34b-hf"),
    ("mistral-large", "mistral.llm", 122_610_069_504, "safetensors Mistral-Large-2407"),
    ("mixtral-8x7b", "mixtral.llm", 46_702_792_704, "safetensors mistralai/Mixtral-8x7B-v0.1"),
    ("mixtral-8x22b", "mixtral.llm", 140_620_634_112, "safetensors mistralai/Mixtral-8x22B-v0.1"),
    ("qwen2-7b", "qwen2.llm", 7_615_616_512, "safetensors Qwen/Qwen2-7B"),
    ("qwen2.5-72b", "qwen2.llm", 72_706_203_648, "safetensors Qwen/Qwen2.5-72B"),
    # 80 x (3 x 8192 x 24576 + 4 x 8192^2 + 3 x 8192 + 2 x 8192) + 2 x 152064 x 8192 + 8192
    ("qwen-72b", "qwen2.llm", 72_287_920_128, "config Qwen/Qwen-72B"),
    # The checkpoint's file repeats the tied head: 751,632,384 less 151936 x 1024.
    ("qwen3-0.6b", "qwen3.llm", 751_632_384 - 151_936 * 1024, "safetensors Qwen/Qwen3-0.6B"),
    ("qwen3-14b", "qwen3.llm", 14_768_307_200, "safetensors Qwen/Qwen3-14B"),
    ("qwen3-32b", "qwen3.llm", 32_762_123_264, "safetensors Qwen/Qwen3-32B"),
    ("qwen3-30b-a3b", "qwen3.llm", 30_532_122_624, "safetensors Qwen/Qwen3-30B-A3B"),
    ("qwen3-235b-a22b", "qwen3.llm", 235_093_634_560, "safetensors Qwen/Qwen3-235B-A22B"),
    # 45 x (4096 x 20608 + 4 x 12288 + 2 x 64 + 128 + 8192 x 4096) + 15 x (4096 x 17408 + 8192 x 4096 + 512)
    # + 60 x (4096 x 512 + 513 x 3 x 4096 x 1024 + 2 x 4096) + 2 x 248320 x 4096 + 4096; no shared gates
    ("qwen3.5-397b-a17b", "qwen3.5.llm", 396_346_104_576, "config Qwen/Qwen3.5-397B-A17B"),
    ("deepseek-v3", "deepseek-v3.llm", 671_026_419_200, "see the decomposition below"),
    # 128 experts x (3 x 2880^2 + 3 x 2880) and 36 layers; the card says 116.83 B and 20.91 B.
    ("gpt-oss-120b", "gpt-oss.llm", 116_829_156_672, "model card, arXiv 2508.10925, table 1"),
    ("gpt-oss-20b", "gpt-oss.llm", 20_914_757_184, "model card, arXiv 2508.10925, table 1"),
    # 27,432,406,640 in all, less the vision tower (416,866,032) and projector (1152 x 5377).
    ("gemma-3-27b", "gemma3.llm", 27_432_406_640 - 416_866_032 - 1152 * 5377, "safetensors"),
    ("phi-2", "phi.llm", 2_779_683_840, "safetensors microsoft/phi-2"),
    # 60 x (4 x 5120^2 + 3 x 5120 x 13824 + 2 x 5120) + 2 x 103168 x 5120 + 5120
    ("internlm-20b", "internlm.llm", 20_088_714_240, "config internlm/internlm-20b"),
    # 80 x (14848 x (2 x 14848 + 1024) + 8 x 14848^2 + 4 x 14848) + 2 x 65024 x 14848 + 2 x 14848
    ("falcon-180b", "falcon.llm", 179_522_565_120, "safetensors tiiuae/falcon-180B"),
]


def program(model: str, file: str) -> Program:
    return load_spec(SPEC / file).model(model)


@pytest.mark.parametrize(("model", "file", "parameters", "source"), PUBLISHED)
def test_parameters_equal_the_published_count(
    model: str, file: str, parameters: int, source: str
) -> None:
    assert program(model, file).parameters == parameters, source


def test_every_shipped_model_is_in_the_table() -> None:
    shipped = {
        model
        for path in SPEC.glob("*.llm")
        for model in load_spec(path).models
        if not model.endswith("-mtp")
    }
    assert shipped == {model for model, _, _, _ in PUBLISHED}


def test_deepseek_v3_and_its_draft_make_up_the_published_file() -> None:
    """684,531,386,000 tensors' elements: weights, the draft's own embedding and head, fp8 scales."""
    main = program("deepseek-v3", "deepseek-v3.llm").parameters
    draft = program("deepseek-v3-mtp", "deepseek-v3.llm").parameters
    table = 129_280 * 7168
    attention = 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128  # one scale a 128 x 128 block
    dense, expert = 3 * 144 * 56, 3 * 16 * 56
    scales = 62 * attention + 3 * dense + 59 * 257 * expert
    assert main + draft + table + scales == 684_531_386_000


# Bytes of cache per token of context in bf16 or fp16, by hand: layers x 2 x KV heads x head x 2.
@pytest.mark.parametrize(
    ("model", "file", "kv_bytes"),
    [
        ("llama-3.1-8b", "llama.llm", 32 * 2 * 8 * 128 * 2),
        ("phi-2", "phi.llm", 32 * 2 * 32 * 80 * 2),
        ("falcon-180b", "falcon.llm", 80 * 2 * 8 * 64 * 2),
        ("deepseek-v3", "deepseek-v3.llm", 61 * (512 + 64) * 2),
    ],
)
def test_kv_bytes_per_token_by_hand(model: str, file: str, kv_bytes: int) -> None:
    assert program(model, file).kv_bytes_per_token == kv_bytes


def test_layers_alternate_where_the_model_says_so() -> None:
    layers = program("gemma-3-27b", "gemma3.llm").layers
    assert [run.count for run in layers] == [5, 1] * 10 + [2]
    assert {run.name for run in layers} == {"layer_a", "layer_b"}
