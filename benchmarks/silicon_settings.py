"""How the engines of the public serving points were started: by the scripts of those who measured.

InferenceX's are public. NVIDIA's own runs are AIConfigurator's, whose generator writes their settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from silicon_points import SHORTEST, Case
from silicon_runs import drafts

from servecast.estimator.engine_profile import (
    MEASURED,
    SYNCHRONOUS_HOST,
    EngineProfile,
    profile_of,
)

SCRIPTS = "github.com/SemiAnalysisAI/InferenceX, benchmarks/"
NO_OVERLAP = "ai-dynamo/aiconfigurator at 77cd250, generator/backends/trtllm.py"
"""disable_overlap_scheduler is true by its templates of TensorRT-LLM 1.0, and the generator gives false only
to engines that decode for others. Later rules turned it over."""
SORT_S = 1.34e-10
"""Of a logit, where vLLM sorts them to sample by top-k and top-p. SOURCE: github.com/vllm-project/vllm, pull
request 40376: 1.06 to 1.07 ms for 64 rows of 131,072, 2.35 to 2.40 ms for 128, on H200 and B200."""
SORTED_VOCABULARY = 151936
"""NVIDIA's clients tell no temperature (aiconfigurator, eval/benchmarks/genai_perf_runner.py), so Qwen3's
generation_config.json holds: top_k 20, top_p 0.95. vLLM 0.12 sorts for it (pull request 26859)."""
H100_MIB = 81559  # as nvidia-smi shows it
SPARE_TOKENS = 1500
"""Of a step of NVIDIA's runs beyond a prompt and its clients. SOURCE: ai-dynamo/aiconfigurator,
generator/rule_plugin/benchmark/{vllm,trtllm}.rule: max_num_tokens = max_batch_size + isl + 1500, and
max_batch_size is the clients'."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine was started. ``kv_fraction`` is the share of memory that the engine's own rule speaks of.
    ``policy`` forms the batches. A new prompt waits ``wait_steps`` decode steps, on average, for others to
    join it.
    ``first_cut_s`` passes when the engine cuts a prompt for the first time: a kernel is compiled. ``drafted``
    tokens are proposed for each request by the model's own multi-token prediction, and checked in a step.
    """

    engine: EngineProfile
    max_num_seqs: int
    max_batched_tokens: int
    kv_cache: str = "bf16"
    kv_fraction: float = 0.9
    policy: str = "vllm_v1"
    wait_steps: float = 0.0
    first_cut_s: float = 0.0
    drafted: int = 0

    @property
    def steps_before(self) -> float:
        """Decode steps between a prompt's arrival and its prefill, on average: half of those between two
        looks for new requests, and the wait for others.
        """
        return (self.engine.receive_every_steps - 1) / 2 + self.wait_steps


CLIENT_S: dict[tuple[str, str, str], float] = {
    ("sglang", "0.5", "b200_sxm"): 0.1,
    ("sglang", "0.5", "h200_sxm"): 0.18,  # of points simulated with it it prints 0.185
    ("trtllm", "", "b200_sxm"): 0.02,
    ("trtllm", "", "h200_sxm"): 0.03,
    ("vllm", "", "b200_sxm"): 0.055,
    (
        "vllm",
        "",
        "h100_sxm",
    ): 0.005,  # see the accuracy page: of points simulated with it, it prints 0
    ("vllm", "", "h200_sxm"): 0.015,
}
"""Outside the engine, by engine, its release and host type, as `fit_hosts.py` prints it; none where no
constant brings the median TTFT error of the points fitted to below 20 %, or where their median TPOT error is
above that. What it prints of TensorRT-LLM 1.1 and 1.2 on B200, 0.21 and 0.1 s, is DeepSeek's drafting layer,
launched from the host: gpt-oss of the same release and host has its first token after 0.04 s."""


def host_of(case: Case) -> tuple[str, str, str]:
    """Engine, its release ("" where the row does not tell it) and host type."""
    release = re.match(r"\d+\.\d+", case.version)
    return case.backend, release[0] if release else "", case.system


def client_s_of(case: Case) -> float:
    """Of a host that nothing was fitted to, what every fitted host of the engine has: the least of them."""
    host = host_of(case)
    if host in CLIENT_S:
        return CLIENT_S[host]
    return min(client_s for known, client_s in CLIENT_S.items() if known[0] == case.backend)


def settings_of(case: Case) -> Settings:
    """By the scripts of InferenceX, or AIConfigurator's rules."""
    engine = profile_of(case.backend, case.version)
    engine = engine.given("benchmarks/fit_hosts.py", client_s=client_s_of(case))
    if not case.inferencex:
        return _generated(case, engine)
    if drafts(case):
        return _drafting(case, engine)
    if case.backend == "trtllm":
        return replace(_trtllm(case, engine), policy=WHOLE_PROMPTS)
    return {"vllm": _vllm, "sglang": _sglang}[case.backend](case, engine)


def _generated(case: Case, engine: EngineProfile) -> Settings:
    """NVIDIA's runs. Their rule for SGLang mixes prompts and decodes, which the points show not to have
    been done: SGLang's defaults stand for it.
    """
    if case.backend == "sglang":
        fraction = 0.88 if case.version.startswith("0.5.1.") else static_fraction(case)
        return Settings(
            engine, max(256, case.concurrency), 8192, kv_fraction=fraction, policy="sglang"
        )
    seqs, tokens = case.concurrency, case.concurrency + case.isl + SPARE_TOKENS
    if case.backend == "vllm":
        sorting = SYNCHRONOUS_HOST["host_per_sequence_s"] + SORT_S * SORTED_VOCABULARY
        engine = engine.given(MEASURED, host_step_s=SYNCHRONOUS_HOST["host_step_s"])
        return Settings(engine.given(MEASURED, host_per_sequence_s=sorting), seqs, tokens)
    kv_cache = "bf16" if case.precision == "" else "fp8"
    if case.version.startswith("1.0."):
        engine = engine.scheduling(NO_OVERLAP, False)  # vLLM's host: nobody measured TensorRT-LLM's
    return Settings(engine, seqs, tokens, kv_cache, 0.8, policy=WHOLE_PROMPTS)


def static_fraction(case: Case) -> float:
    """Of an H100's memory that SGLang gives to weights and cache where it is not told. SOURCE:
    github.com/sgl-project/sglang, pull request 10975 (0.5.3): what prompts of 8,192 tokens and graphs of 256
    or 512 sequences need stays free.
    """
    graphs = 256 if case.parallelism.tp < 4 else 512
    reserved_mib = 512 + 1.5 * 8192 + 2 * graphs + 128 * case.parallelism.tp
    return 1 - reserved_mib / H100_MIB


def _vllm(case: Case, engine: EngineProfile) -> Settings:
    """70b_fp8_h100_slurm.sh and its like: async-scheduling, kv-cache-dtype fp8 (but gpt-oss on Hopper),
    max-num-seqs as many as clients on Hopper, 512 on Blackwell, 8192 tokens a step.
    """
    hopper = case.system in ("h100_sxm", "h200_sxm")
    return Settings(
        engine.scheduling(SCRIPTS, True),
        case.concurrency if hopper else 512,
        8192,
        kv_cache="bf16" if hopper else "fp8",
    )


def _trtllm(case: Case, engine: EngineProfile) -> Settings:
    """70b_fp8_h200_trt_slurm.sh, dsr1_fp8_b200_trt.sh, gptoss_fp4_b200_trt.sh and their like."""
    seqs = max(256, case.concurrency)
    if "gpt-oss" in case.model:
        kv_cache, wait = "bf16" if case.system == "h200_sxm" else "fp8", balance_steps(case, 50)
        return Settings(engine, seqs, 20000, kv_cache, 0.85, wait_steps=wait)
    if "DeepSeek" in case.model:
        tokens = max(8192, -(-(case.concurrency + case.isl + 64) // 64) * 64)
        wait = balance_steps(case, 60)
        return Settings(engine, seqs, tokens, "fp8", 0.8, wait_steps=wait)
    tokens = 16384 if case.system == "b200_sxm" else case.isl + case.osl + 200
    waits = case.isl == case.osl == 1024 and case.parallelism.tp < 8  # batch_wait_timeout_iters
    wait = BATCH_WAIT_STEPS if waits else 0.0
    return Settings(engine, seqs, tokens, "fp8", 0.9, wait_steps=wait)


def _drafting(case: Case, engine: EngineProfile) -> Settings:
    """dsr1_fp8_h200_trt_mtp_slurm.sh, dsr1_fp4_b200_trt_mtp.sh, dsr1_fp8_b200_trt_mtp.sh: three tokens, one
    with data-parallel attention; room for one prompt and the checks. On H200 the script takes the longest
    prompt for 1.8 times what it is. Drafts are checked in vLLM's batches, the only ones that know them.
    """
    drafted = 1 if case.parallelism.dp > 1 else 3
    seqs = -(-case.concurrency // case.parallelism.dp)
    hopper = case.system == "h200_sxm"
    longest = int((1 + SHORTEST) * case.isl) if hopper else case.isl
    tokens = ((drafted + 1) * seqs + longest + 127) // 64 * 64
    wait = balance_steps(case, 60)
    fraction = 0.75 if hopper else 0.8
    return Settings(engine, seqs, tokens, "fp8", fraction, wait_steps=wait, drafted=drafted)


WHOLE_PROMPTS = "trtllm_no_evict"
"""TensorRT-LLM cuts prompts where enable_chunked_prefill asks for it: no script does."""
BATCH_WAIT_STEPS = 20.0
"""Steps that TensorRT-LLM holds prompts back for until they fill a batch, where a script asks for it."""


def balance_steps(case: Case, timeout_steps: int) -> float:
    """Expected steps until every data-parallel rank has a prompt, or the timeout (enable_balance).

    A rank gets one every output length over its clients, at random.
    """
    ranks = case.parallelism.dp
    if ranks == 1:
        return 0.0
    between = (1 + SHORTEST) / 2 * case.osl / (case.concurrency / ranks)
    waited = np.arange(timeout_steps) + 0.5
    return float((1 - (1 - np.exp(-waited / between)) ** (ranks - 1)).sum())


SHORT_OUTPUT = 4096
"""Up to here SGLang's own policy is compiled; plain classes would take hours for the points with more."""
FIRST_CUT_S = {("fp4", "2025-11-10"): 91.0, ("fp8", "2025-11-18"): 22.0}
"""By weights and the day of the runs, as `fit_hosts.py` prints it: SGLang on B200."""


def _sglang(case: Case, engine: EngineProfile) -> Settings:
    """The batches are SGLang's own where outputs are short. In runs of two days of November 2025 TTFT is
    seconds longer exactly where the first prompts are more than a step holds.
    """
    settings = _qwen35(case, engine) if "Qwen3.5" in case.model else _deepseek(case, engine)
    if not case.version:
        cut_s = FIRST_CUT_S.get((case.precision, case.measured), 0.0)
        settings = replace(settings, first_cut_s=cut_s)
    return replace(settings, policy="sglang") if case.osl <= SHORT_OUTPUT else settings


def _deepseek(case: Case, engine: EngineProfile) -> Settings:
    """dsr1_fp8_b200.sh, dsr1_fp4_b200.sh, dsr1_fp8_h200.sh: the scheduler polls every 10 decode steps, every
    30 from 16 clients on, on Blackwell.
    """
    seqs = max(256, case.concurrency)
    if case.system == "h200_sxm":
        return Settings(engine, seqs, 32768, "bf16", 0.82)
    polling = engine.given(SCRIPTS, receive_every_steps=10 if case.concurrency < 16 else 30)
    if case.precision == "fp4":
        return Settings(polling, seqs, 16384, "fp8", 0.85)
    if case.parallelism.tp == 4:
        return Settings(polling.given(SCRIPTS, receive_every_steps=10), 32, 8192, "fp8", 0.95)
    return Settings(polling, seqs, 32768, "fp8", 0.82)


def _qwen35(case: Case, engine: EngineProfile) -> Settings:
    """qwen3.5_{bf16,fp8,fp4}_b200.sh, qwen3.5_fp8_h200.sh. As many requests run as there are clients, 128 at
    least: so the fp4 script says, and points of 256 clients show no queue.
    """
    seqs = max(128, case.concurrency)
    kv_cache = "bf16" if case.precision == "bf16" else "fp8"
    if case.system == "h200_sxm":
        return Settings(engine, seqs, 16384, kv_cache, 0.8)
    every = 10 if case.concurrency < 16 and case.precision != "fp4" else 30
    polling = engine.given(SCRIPTS, receive_every_steps=every)
    if case.precision == "fp4":
        return Settings(polling, seqs, 32768, kv_cache, 0.85)
    return Settings(polling, seqs, 32768, kv_cache, 0.82)
