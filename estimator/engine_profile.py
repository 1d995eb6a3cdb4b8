"""What a serving engine adds to its kernels: host time, CUDA-graph capture sizes.

Every default is assumed unless its source says otherwise: no figure here was fitted to a serving run.
"""

from __future__ import annotations

from dataclasses import dataclass

# vLLM's default: 1, 2, 4, then every 8 up to 256, every 16 up to 512
# (vllm/config/vllm.py, _set_cudagraph_sizes).
VLLM_CAPTURE_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """``host_step_s`` passes between a step's end and the next one's launch; ``host_per_sequence_s`` is
    added for each sequence of a step (sampling's bookkeeping, detokenising). A step of no more tokens
    than the largest of ``capture_sizes`` replays the graph of the next size and costs what that costs.
    """

    name: str
    host_step_s: float
    host_per_sequence_s: float
    capture_sizes: tuple[int, ...]
    source: str


ENGINE_PROFILES: dict[str, EngineProfile] = {
    profile.name: profile
    for profile in (
        EngineProfile(
            name="vllm_v1",
            host_step_s=0.0004,
            host_per_sequence_s=4e-6,
            capture_sizes=VLLM_CAPTURE_SIZES,
            source="assumed: scheduling and input preparation of vLLM v1, partly hidden behind the GPU",
        ),
        EngineProfile(
            name="none",
            host_step_s=0.0,
            host_per_sequence_s=0.0,
            capture_sizes=(),
            source="kernels alone",
        ),
    )
}
DEFAULT_ENGINE = "vllm_v1"
