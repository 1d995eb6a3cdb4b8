"""Write the example chat trace that ships as spec/traces/chat.csv, the same bytes on every run.

    python benchmarks/make_example_trace.py spec/traces/chat.csv

Drawn from published statistics; no request is copied from any trace:
- Prompt and output medians of 1,020 and 129 tokens, 90th percentiles of 2,734 and 424: those of the
  public Azure LLM inference trace 2023 (conversation), as `servecast workload` describes it.
- Prompt and output lengths are independent: their correlation is weaker than was thought (ServeGen,
  Xiang et al. 2025).
- Gamma gaps (BurstGPT, Wang et al. 2024; ServeGen) with a coefficient of variation of 1.5, our choice
  for "bursty": 1 would be Poisson.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from random import Random
from statistics import NormalDist

SEED = 20260101
NUM_REQUESTS = 2_000
RATE_PER_S = 12.0
GAP_CV = 1.5
CONTEXT_TOKENS = 8_192
"""No request is longer: the trace then suits every model from Llama 3 on."""


def log_normal(rng: Random, p50: float, p90: float) -> int:
    """Whole tokens, at least 1. Python's Mersenne Twister repeats everywhere; numpy's streams may change."""
    sigma = math.log(p90 / p50) / NormalDist().inv_cdf(0.9)
    return max(1, round(p50 * math.exp(sigma * NormalDist().inv_cdf(rng.random()))))


def request(rng: Random) -> tuple[int, int]:
    """Prompt and output tokens of one request that fits the context."""
    while True:
        prompt, output = log_normal(rng, 1_020, 2_734), log_normal(rng, 129, 424)
        if prompt + output <= CONTEXT_TOKENS:
            return prompt, output


def trace() -> str:
    """The file's text, in the project's own CSV format."""
    rng = Random(SEED)
    shape = GAP_CV**-2
    arrival_s = 0.0
    rows = ["arrival_s,prompt_tokens,output_tokens"]
    for _ in range(NUM_REQUESTS):
        prompt, output = request(rng)
        rows.append(f"{arrival_s:.6f},{prompt},{output}")
        arrival_s += rng.gammavariate(shape, 1 / (RATE_PER_S * shape))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(trace(), encoding="utf-8", newline="\n")
