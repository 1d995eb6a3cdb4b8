"""This machine as the live comparison sees it: its agent, its profile, its engine, how quiet it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
REPLAY, REFERENCE = HERE / "vllm_replay.py", HERE / "reference_work.py"
SKU = "this-cpu"
STORE = "profile.duckdb"
MAX_NUM_SEQS, MAX_BATCHED_TOKENS, MAX_CONTEXT = 32, 256, 512
# Sizes of step that a plan ends at, and so has: the largest, and 5 and 7, for between 4 and 8 rows oneDNN's
# products jump, and between 4 and 8 an octave's plan has 6 alone.
PLANNED = (MAX_BATCHED_TOKENS, 7, 5)
MAX_SAMPLES = 30  # of a case: each waits for a matrix product
SLICE_S = 20  # of the profile, between two looks at how fast the machine is
GAUGES = 9
START_S = 180.0  # for vLLM's kernels to load on a machine that does other things


@dataclass(frozen=True, slots=True)
class Model:
    """A Llama of random weights, as vLLM and as we describe it."""

    name: str
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    layers: int = 12
    context: int = 2048

    @property
    def config(self) -> dict[str, Any]:
        """vLLM's config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    @property
    def spec(self) -> str:
        return f"""\
model "{self.name}" {{
    source   "random weights"
    context  {self.context}
    weights  bf16
    kv_cache bf16
    let hidden = {self.hidden}, ffn = {self.ffn}, vocab = {self.vocab}
    let heads = {self.heads}, kv_heads = {self.kv_heads}, head = {self.hidden // self.heads}
    embedding vocab -> hidden
    repeat {self.layers} {{
        residual {{
            rms_norm  hidden
            linear    hidden -> (heads + 2*kv_heads) * head  split columns by kv_heads
            rope      (heads + kv_heads) x head
            attention heads/kv_heads x head
            linear    heads*head -> hidden  split rows
        }}
        residual {{
            rms_norm hidden
            linear   hidden -> 2*ffn  split columns
            swiglu   ffn
            linear   ffn -> hidden  split rows
        }}
    }}
    rms_norm hidden
    linear   hidden -> vocab  split columns  at last_token
}}
"""


LIVE = Model("live", hidden=768, ffn=2048, heads=12, kv_heads=4, vocab=8192)
# As many layers, so the engine does as much for it, and less to compute. Its weights are three times a common
# L3: of twice as much a part stays there from one step to the next, and the agent times all of them cold.
HOST_PROBE = Model("host-probe", hidden=640, ffn=1664, heads=10, kv_heads=5, vocab=2048)
# Rates for the bounds only: every kernel is measured.
SKU_SPEC = f"""\
sku "{SKU}" {{
    memory 4 GiB  bandwidth 50 GB/s
    peak bf16 1 TFLOP/s  peak fp32 1 TFLOP/s
    node 1 linked pcie 1 GB/s
    between nodes 1 GB/s
    power idle 1 W  peak 100 W
    price 0.1 USD/h source "none: a processor"
}}
"""


@contextmanager
def agent(python: str, folder: Path) -> Iterator[str]:
    """An agent with vLLM's kernels on one thread; its address."""
    links = folder / "links" / "servecast"
    links.mkdir(parents=True, exist_ok=True)
    for name in ("agent", "compiler", "protos"):
        (links / name).unlink(missing_ok=True)
        (links / name).symlink_to(HERE.parent / name)
    command = [python, "-m", "servecast.agent.cli", "serve", "--port", "0", "--backend", "cpu"]
    command += ["--threads", "1", "--sku", SKU, "--library", "vllm", "--library", "torch"]
    environment = os.environ | {"PYTHONPATH": str(links.parent), "OMP_NUM_THREADS": "1"}
    with (
        (folder / "agent.log").open("w") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if line.startswith("serving on")), None)
            if said is None:
                raise SystemExit(f"the agent did not start; see {folder / 'agent.log'}")
            yield said.split()[-1]
        finally:
            process.terminate()


@contextmanager
def reference_work(python: str) -> Iterator[Callable[[], float]]:
    """Gives the seconds that fixed work takes now, in a process of that Python; the median of some."""
    command = [python, str(REFERENCE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told = process.stdin, process.stdout

        def once_s() -> float:
            asked.write("\n")
            asked.flush()
            return float(told.readline())

        yield lambda: median(once_s() for _ in range(GAUGES))


def profile(
    address: str, folder: Path, rounds: int, gauge: Callable[[], float]
) -> list[list[float]]:
    """Puts both models' kernels into the folder's store, so often, a round of all after the other; what
    ``gauge`` gave in each round, between its slices.
    """
    (folder / "live.llm").write_text(LIVE.spec + HOST_PROBE.spec + SKU_SPEC)
    return [_profile_round(address, folder, number + 1, gauge) for number in range(rounds)]


def _profile_round(
    address: str, folder: Path, number: int, gauge: Callable[[], float]
) -> list[float]:
    gauged = [gauge()]
    for model, tokens in product((LIVE, HOST_PROBE), PLANNED):
        command = [sys.executable, "-c", "from servecast.simulator.cli import main; main()"]
        command += ["profile", str(folder / "live.llm"), "--model", model.name, "--tp", "1"]
        command += ["--agent", address, "--store", str(folder / STORE), "--json"]
        command += ["--rounds", str(number)]  # the store has those before
        command += ["--budget", f"{SLICE_S}s"]
        command += ["--method", "cpu_step", "--max-samples", str(MAX_SAMPLES)]
        command += ["--max-num-batched-tokens", str(tokens), "--max-context", str(MAX_CONTEXT)]
        command += ["--max-num-seqs", str(min(MAX_NUM_SEQS, tokens))]
        left = 1
        while left:
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            left = json.loads(done.stdout)["left"]
            gauged.append(gauge())
    return gauged


@dataclass(frozen=True, slots=True)
class Run:
    """``requests`` are (arrival in seconds, prompt tokens, output tokens). A concurrency closes the loop."""

    name: str
    requests: tuple[tuple[float, int, int], ...]
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """By what the engine's times are told: "cpu" or "wall", of a machine whose fixed work takes so long."""

    name: str
    reference_s: float


def replay(python: str, model: Model, runs: Sequence[Run], clock: Clock) -> list[dict[str, Any]]:
    """What the engine did in each run (see vllm_replay.py), one engine for all."""
    order = {
        "model": model.config,
        "clock": clock.name,
        "reference_s": clock.reference_s,
        "engine": {
            "max_model_len": model.context,
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": MAX_BATCHED_TOKENS,
        },
        "runs": [asdict(run) for run in runs],
    }
    done = subprocess.run(
        [python, str(REPLAY)], input=json.dumps(order), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the engine failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
