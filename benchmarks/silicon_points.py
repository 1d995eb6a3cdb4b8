"""The public serving points: what was measured, how, and with which settings of the engine.

A row of dev.csv tells model, GPU, engine and lengths. How it was driven and how the engine was started is
in the scripts of those who measured; `SCRIPTS` names them.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import UserError
from servecast.compiler.program import Program
from servecast.compiler.sharded import Parallelism
from servecast.estimator.engine_profile import EngineProfile, profile_of

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = {
    "meta-llama/Llama-3.1-70B": ("llama", "llama-3.1-70b"),
    "Qwen/Qwen3-32B": ("qwen3", "qwen3-32b"),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3", "qwen3-32b"),
    "deepseek-ai/DeepSeek-R1": ("deepseek-v3", "deepseek-v3"),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek-v3", "deepseek-v3"),
    "openai/gpt-oss-120b": ("gpt-oss", "gpt-oss-120b"),
}
DENSE = ("Llama", "Qwen3-32B")
FITTED = ("meta-llama/Llama-3.1-70B", "deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-R1-NVFP4")
"""Constants may be fitted to these models' points; those of all others are only looked at."""

WEIGHTS = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "bf16", "": "bf16"}
# NVIDIA's NVFP4 checkpoint of DeepSeek-R1 keeps the attention's projections in bf16.
KEPT_WIDE = ("as fused_qkv_a_proj", "as q_b_proj")
SHORTEST = 0.8
"""InferenceX draws lengths from [0.8 L, L] (random-range-ratio); NVIDIA's own runs fix them."""

SCRIPTS = "github.com/SemiAnalysisAI/InferenceX, benchmarks/"


@dataclass(frozen=True, slots=True)
class Case:
    """One measured point, in milliseconds. ``peer`` is AIConfigurator's answer, None where it refuses."""

    id: str
    model: str
    system: str
    backend: str
    version: str
    precision: str
    isl: int
    osl: int
    parallelism: Parallelism
    concurrency: int
    inferencex: bool
    ttft_ms: float
    tpot_ms: float
    peer_ttft_ms: float | None
    peer_tpot_ms: float | None

    @property
    def sku(self) -> str:
        return self.system.replace("_", "-")

    @property
    def group(self) -> str:
        """Rows that are reported together."""
        return f"{self.model} {self.precision or 'bf16'} {self.system} {self.backend}"

    @property
    def is_dense(self) -> bool:
        return any(name in self.model for name in DENSE)

    @property
    def is_fitted(self) -> bool:
        return self.model in FITTED


def read_cases(folder: Path) -> list[Case]:
    """The aggregated rows, each beside the peer's prediction."""
    with (folder / "dev-aiconfigurator-0.12-predictions.csv").open() as file:
        peers = {row["id"]: row for row in csv.DictReader(file)}
    with (folder / "dev.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    return [_case(row, peers.get(row["id"], {})) for row in rows]


def _case(row: dict[str, str], peer: dict[str, str]) -> Case:
    told = row["silicon_data_source"]
    concurrency = re.search(r"silicon_concurrency=(\d+)", told)
    return Case(
        id=row["id"],
        model=row["model_path"],
        system=row["system"],
        backend=row["backend"],
        version=row["backend_version"],
        precision=row["precision"],
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        parallelism=parallelism_of(row),
        concurrency=int(concurrency[1] if concurrency else row["batch_size"]),
        inferencex="aic-auto-gap-analysis" not in told,
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
        peer_ttft_ms=float(peer["predicted_ttft_ms"]) if peer.get("predicted_ttft_ms") else None,
        peer_tpot_ms=float(peer["predicted_tpot_ms"]) if peer.get("predicted_tpot_ms") else None,
    )


def parallelism_of(row: dict[str, str]) -> Parallelism:
    """As the engine ran. One of the file's sources multiplies tp (or dp) by ep and gives ep's value to
    moe_tp: the same measurements stand in its other sources with the plain degrees.
    """
    tp, ep = int(row["tp_size"]), int(row["moe_ep_size"] or 1)
    dp, moe_tp = int(row["attention_dp_size"] or 1), int(row["moe_tp_size"] or 1)
    if ep > 1 and moe_tp == ep and tp * dp == ep * ep:
        tp, dp = (tp // ep, dp) if dp == 1 else (tp, dp // ep)
    return Parallelism(tp=tp, pp=int(row["pp_size"] or 1), ep=max(1, ep), dp=max(1, dp))


@cache
def program_of(model: str, precision: str, kv_cache: str) -> Program:
    """The shipped spec, its weights in the precision of the point; gpt-oss has but one."""
    if model not in MODELS:
        raise UserError("no spec of this model")
    file, name = MODELS[model]
    text = (REPOSITORY / "spec" / f"{file}.llm").read_text(encoding="utf-8")
    changes = f"kv_cache {kv_cache}"
    if file != "gpt-oss":
        weights = (
            "fp8 per block 128"
            if (file, precision) == ("deepseek-v3", "fp8")
            else WEIGHTS[precision]
        )
        changes = f"weights {weights}\n    {changes}"
    if (file, precision) == ("deepseek-v3", "fp4"):
        for site in KEPT_WIDE:
            text = text.replace(site, f"weights bf16  {site}")
    quantised = f'\nmodel "served" like "{name}" {{\n    {changes}\n}}\n'
    return compile_text(text + quantised, f"{file}.llm").model("served")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine was started. ``kv_fraction`` of what is left beside the weights is cache where the
    engine counts so (``of_free``), else that of the whole memory which weights and cache fill. ``policy``
    forms the batches.
    """

    engine: EngineProfile
    max_num_seqs: int
    max_batched_tokens: int
    kv_cache: str = "bf16"
    kv_fraction: float = 0.9
    of_free: bool = False
    policy: str = "vllm_v1"


CLIENT_S: dict[tuple[str, str], float] = {
    ("sglang", "b200_sxm"): 0.105,
    ("sglang", "h200_sxm"): 0.14,
    ("trtllm", "b200_sxm"): 0.015,
    ("vllm", "b200_sxm"): 0.065,
    ("vllm", "h100_sxm"): 0.005,
    ("vllm", "h200_sxm"): 0.03,
}
"""Outside the engine, by engine and host type, as `fit_hosts.py` prints it; none where no constant brings
the median error of the points fitted to below 20 %."""


def settings_of(case: Case) -> Settings:
    """By the scripts of InferenceX; NVIDIA's runs do not tell theirs: each engine's defaults."""
    engine = profile_of(case.backend, case.version)
    client_s = CLIENT_S.get((case.backend, case.system), 0.0) if case.inferencex else 0.0
    engine = engine.given("benchmarks/fit_hosts.py", client_s=client_s)
    settings = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}[case.backend](case, engine)
    return settings


def _vllm(case: Case, engine: EngineProfile) -> Settings:
    """70b_fp8_h100_slurm.sh and its like: async-scheduling, kv-cache-dtype fp8 (but gpt-oss on Hopper),
    max-num-seqs as many as clients on Hopper, 512 on Blackwell, 8192 tokens a step.
    """
    if not case.inferencex:
        return Settings(engine, max(256, case.concurrency), 8192)
    hopper = case.system in ("h100_sxm", "h200_sxm")
    return Settings(
        engine.given(SCRIPTS, async_scheduling=True),
        case.concurrency if hopper else 512,
        8192,
        kv_cache="bf16" if hopper else "fp8",
    )


def _trtllm(case: Case, engine: EngineProfile) -> Settings:
    """70b_fp8_h200_trt_slurm.sh, dsr1_fp8_b200_trt.sh, gptoss_fp4_b200_trt.sh and their like."""
    seqs = max(256, case.concurrency)
    if not case.inferencex:
        kv_cache = "bf16" if case.precision == "" else "fp8"
        return Settings(engine, seqs, 8192, kv_cache, 0.9, of_free=True)
    if "gpt-oss" in case.model:
        kv_cache = "bf16" if case.system == "h200_sxm" else "fp8"
        return Settings(engine, seqs, 20000, kv_cache, 0.85, of_free=True)
    if "DeepSeek" in case.model:
        tokens = max(8192, -(-(case.concurrency + case.isl + 64) // 64) * 64)
        return Settings(engine, seqs, tokens, "fp8", 0.8, of_free=True)
    tokens = 16384 if case.system == "b200_sxm" else case.isl + case.osl + 200
    return Settings(engine, seqs, tokens, "fp8", 0.9, of_free=True)


def _sglang(case: Case, engine: EngineProfile) -> Settings:
    """dsr1_fp8_b200.sh, dsr1_fp4_b200.sh, dsr1_fp8_h200.sh: the scheduler polls every 10 decode steps, every
    30 from 16 clients on, on Blackwell. SGLang's own policy, which runs in plain classes, would take hours
    for these; it is used for NVIDIA's runs, whose fixed lengths keep clients in step.
    """
    seqs = max(256, case.concurrency)
    if not case.inferencex:
        return Settings(engine, seqs, 8192, kv_fraction=0.88, policy="sglang")
    if case.system == "h200_sxm":
        return Settings(engine, seqs, 32768, "bf16", 0.82)
    polling = engine.given(SCRIPTS, receive_every_steps=10 if case.concurrency < 16 else 30)
    if case.precision == "fp4":
        return Settings(polling, seqs, 16384, "fp8", 0.85)
    if case.parallelism.tp == 4:
        return Settings(polling.given(SCRIPTS, receive_every_steps=10), 32, 8192, "fp8", 0.95)
    return Settings(polling, seqs, 32768, "fp8", 0.82)
