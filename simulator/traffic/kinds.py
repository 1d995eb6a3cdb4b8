"""Workloads of a kind (chat, code, agentic, …), drawn from published statistics alone.

Lengths are log-normal; longer ones than the longest request have its length, as where a service cuts
prompts off. Prompt and output are independent: their correlation is weaker than was thought (ServeGen, Xiang
et al. 2025), a Spearman coefficient of 0.07 in Mooncake's conversation trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.traffic.arrival_processes import ArrivalProcess
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Ints, PrefixBlocks, Workload

BLOCK_TOKENS = 512
"""Of generated prefix blocks: Mooncake's size, so that a workload can be saved in its format."""

Z_90 = 1.2815515655446004
"""The standard normal distribution's 90th percentile."""

MAX_REQUESTS = 10_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal tokens by median and 90th percentile, none above ``most``."""

    p50: float
    p90: float
    most: int

    @classmethod
    def of_mean(cls, mean: float, cv: float, most: int) -> Lengths:
        """By mean and coefficient of variation, before the cut."""
        sigma = sqrt(log(1 + cv**2))
        p50 = mean * exp(-(sigma**2) / 2)
        return cls(p50, p50 * exp(Z_90 * sigma), most)

    def draw(self, num_requests: int, rng: np.random.Generator) -> Ints:
        """[num_requests] whole tokens, 1 or more."""
        sigma = log(self.p90 / self.p50) / Z_90
        tokens = self.p50 * np.exp(sigma * rng.standard_normal(num_requests))
        return np.clip(np.rint(tokens), 1, self.most).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """``share`` of every prompt is the beginning of one of ``num_prefixes`` texts, by Zipf's law."""

    share: float
    num_prefixes: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What is published of a kind of traffic; ``assumed`` is what is not, and was chosen."""

    says: str
    prompt: Lengths
    output: Lengths
    source: str
    assumed: str = ""
    prefix: SharedPrefix | None = None


AZURE = "the Azure LLM inference trace 2023 (published with Splitwise), as `servecast workload` describes it"
VIDUR = "Vidur (Agrawal et al., MLSys 2024, table 1)"

KINDS: dict[str, Kind] = {
    "chat": Kind(
        "a conversation service",
        Lengths(1_020, 2_734, 14_050),
        Lengths(129, 424, 1_000),
        f"{AZURE}: conversation",
    ),
    "code": Kind(
        "completion in an editor: long prompts, outputs of a line",
        Lengths(1_469, 5_188, 7_437),
        Lengths(13, 55, 1_899),
        f"{AZURE}: code",
    ),
    "summarisation": Kind(
        "scientific articles to abstracts",
        Lengths(2_730, 3_702, 4_096),
        Lengths(167, 372, 4_096),
        f"{VIDUR}, Arxiv-Summarization-4K",
    ),
    "translation": Kind(
        "book chapters, Chinese to English: outputs longer than prompts",
        Lengths(1_037, 1_453, 4_096),
        Lengths(1_601, 2_149, 4_096),
        f"{VIDUR}, BWB-4K",
    ),
    "agentic": Kind(
        "tools and agents: long system prompts that requests share",
        Lengths.of_mean(8_596, 1.3, 131_072),
        Lengths.of_mean(182, 0.7, 8_192),
        "means of 8,596 and 182 tokens and a cache ratio of 59 %: the tool and agent trace of Mooncake "
        "(Qin et al., FAST 2025, table 2)",
        "spread: CV 1.3 and 0.7, those of Mooncake's conversation trace; 100 system prompts",
        SharedPrefix(0.59, 100),
    ),
    "reasoning": Kind(
        "mathematics, science and code problems with a chain of thought",
        Lengths.of_mean(800, 1.0, 8_192),
        Lengths.of_mean(3_886, 1.0, 20_000),
        "mean output of 3,886 tokens over 4,388 problems, 20,000 at most: MLPerf Inference's reference "
        "implementation of DeepSeek-R1 (mlcommons/inference, language/deepseek-r1)",
        "prompts: a mean of 800 tokens; spread: CV 1",
    ),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """How many requests to draw, and when they arrive."""

    num_requests: int
    rate_per_s: float
    arrivals: ArrivalProcess
    seed: int = 0


def draw_workload(name: str, draw: Draw) -> Workload:
    """A workload of the kind ``name``, equal for equal draws.

    Raises:
        UserError: no or too many requests, or a rate that is not above 0.
    """
    num_requests = draw.num_requests
    if not 1 <= num_requests <= MAX_REQUESTS:
        raise UserError(f"{name}: {num_requests} requests; ask for 1 to {MAX_REQUESTS:,}")
    kind = KINDS[name]
    lengths = stream(draw.seed, "lengths")
    prompt, output = (
        kind.prompt.draw(num_requests, lengths),
        kind.output.draw(num_requests, lengths),
    )
    arrival_s = draw.arrivals.draw(num_requests, draw.rate_per_s, stream(draw.seed, "arrivals"))
    prefix: PrefixBlocks | None = None
    if kind.prefix is not None:
        prefix = _prefix_blocks(kind.prefix, prompt, stream(draw.seed, "prefixes"))
    return Workload(name, arrival_s, prompt, output, prefix=prefix)


def _prefix_blocks(shared: SharedPrefix, prompt: Ints, rng: np.random.Generator) -> PrefixBlocks:
    """Blocks of which each prompt's first ``share``, rounded by chance, are its text's."""
    popularity = 1.0 / np.arange(1, shared.num_prefixes + 1)
    text = rng.choice(shared.num_prefixes, size=len(prompt), p=popularity / popularity.sum())
    rounding: NDArray[np.float64] = rng.random(len(prompt))
    num_shared = np.floor(shared.share * prompt / BLOCK_TOKENS + rounding).astype(np.int64)
    num_shared = np.minimum(num_shared, prompt // BLOCK_TOKENS)
    sizes = -(-prompt // BLOCK_TOKENS)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    longest = int(sizes.max())
    of_text = np.repeat(text, sizes) * longest + place
    of_its_own = shared.num_prefixes * longest + np.arange(offsets[-1])
    ids = np.where(place < np.repeat(num_shared, sizes), of_text, of_its_own)
    return PrefixBlocks(BLOCK_TOKENS, offsets, ids)
