"""What a serving engine adds to its kernels, by engine and version: host time, graphs, whose kernels.

A version stands for those from it up to the next one listed; `profile_of` picks it. Every default has its
source; "assumed" is one that nobody measured for us, "fitted" one that a benchmark prints, fitted to one half
of the models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from servecast.compiler.errors import UserError
from servecast.compiler.suggest import did_you_mean

# vLLM's default: 1, 2, 4, then every 8 up to 256, every 16 up to 512
# (vllm/config/vllm.py, _set_cudagraph_sizes).
VLLM_CAPTURE_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
# sglang/srt/server_args.py, _generate_cuda_graph_batch_sizes: decode steps only.
SGLANG_CAPTURE_SIZES = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
# tensorrt_llm/llmapi/llm_args.py, CudaGraphConfig with enable_padding.
TRTLLM_CAPTURE_SIZES = (1, 2, 4, *range(8, 129, 8), 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """``host_step_s`` passes between a step's end and the next one's launch; ``host_per_sequence_s`` is
    added for each sequence of a step (sampling's bookkeeping, detokenising). A step of no more tokens
    than the largest of ``capture_sizes`` replays the graph of the next size and costs what that costs.

    ``kernels`` names the engine whose kernels are asked for first. With ``async_scheduling`` a batch is
    formed while the one before it runs. A client's clock sees ``client_s`` more than the engine's: from a
    request's sending to the engine and from a token to the client (HTTP, tokenising, the client itself).
    ``matrix_factor`` and ``attention_factor`` lengthen kernels: clocks under load, as calibrated.
    A layer's collectives hide behind the share ``overlap`` of its GEMMs' time, and take what is left.
    New requests are looked for every ``receive_every_steps`` decode steps. ``sources`` are by field.
    ``since`` is the oldest version that the profile stands for, where its name tells a newer one.
    """

    name: str
    host_step_s: float
    host_per_sequence_s: float
    capture_sizes: tuple[int, ...]
    kernels: str = "vllm"
    async_scheduling: bool = False
    client_s: float = 0.0
    receive_every_steps: int = 1
    matrix_factor: float = 1.0
    attention_factor: float = 1.0
    overlap: float = 0.0
    since: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    def given(self, source: str, **terms: Any) -> EngineProfile:
        """The same with these terms, which ``source`` tells."""
        return replace(self, **terms, sources={**self.sources, **dict.fromkeys(terms, source)})

    def scheduling(self, source: str, ahead: bool) -> EngineProfile:
        """The same with asynchronous scheduling or without; where that is another than the profile's own,
        the host's terms are those that go with it.
        """
        if ahead == self.async_scheduling:
            return self.given(source, async_scheduling=ahead)
        terms, told = (HIDDEN_HOST, HIDDEN_FROM) if ahead else (SYNCHRONOUS_HOST, MEASURED_FROM)
        sources = {**self.sources, **told, "async_scheduling": source}
        return replace(self, **terms, async_scheduling=ahead, sources=sources)


class HostTerms(TypedDict):
    """The host's two of an `EngineProfile`."""

    host_step_s: float
    host_per_sequence_s: float


SYNCHRONOUS_HOST = HostTerms(host_step_s=0.00073, host_per_sequence_s=1.7e-5)
"""Of vLLM where nothing hides it: vLLM 0.32 on a virtual machine of two cores, medians of three runs. Three
later runs there printed 0.65 to 0.82 ms and 17 to 23 us. A server's processor may be faster."""
HIDDEN_HOST = HostTerms(host_step_s=0.0004, host_per_sequence_s=2.5e-6)
MEASURED = "measured of vLLM 0.32 on a virtual machine of two cores (benchmarks/vllm_host.py)"
MEASURED_FROM = {"host_step_s": MEASURED, "host_per_sequence_s": MEASURED}
HIDDEN_FROM = {
    "host_step_s": "assumed: hidden behind the GPU but for what starts a step",
    "host_per_sequence_s": "fitted to two recordings of vLLM 0.19 (benchmarks/fit_hidden_host.py)",
}
_VLLM = {
    "since": "vllm's release notes",
    "capture_sizes": "vllm/config/vllm.py, _set_cudagraph_sizes",
    "kernels": "vLLM's own tables",
    "receive_every_steps": "vllm/v1/engine/core.py: before every step",
}
_LISTED = (
    EngineProfile(
        name="vllm-0.6",
        host_step_s=0.004,
        host_per_sequence_s=4e-5,
        capture_sizes=(1, 2, 4, *range(8, 257, 8)),
        client_s=0.02,
        sources=_VLLM
        | {
            "client_s": "fitted to Llama 3.1 70B's APEX+ runs (benchmarks/apex_gate.py --fit)",
            "host_step_s": "assumed, after vLLM's profile of its host time (blog of 2024-09-05)",
            "host_per_sequence_s": "assumed, as host_step_s",
            "capture_sizes": "vllm/worker/model_runner.py, _BATCH_SIZES_TO_CAPTURE",
            "async_scheduling": "there is none in engine V0",
        },
    ),
    EngineProfile(
        name="vllm-0.12",
        since="0.8",  # engine V1 became the default
        **SYNCHRONOUS_HOST,
        capture_sizes=VLLM_CAPTURE_SIZES,
        sources=_VLLM
        | MEASURED_FROM
        | {
            "async_scheduling": "vllm/config/scheduler.py: off by default",
        },
    ),
    *(
        EngineProfile(
            name=name,
            **HIDDEN_HOST,
            capture_sizes=VLLM_CAPTURE_SIZES,
            async_scheduling=True,
            sources=_VLLM
            | HIDDEN_FROM
            | {
                "async_scheduling": "vllm/config/vllm.py: on by default since 0.14",
            },
        )
        for name in ("vllm-0.19", "vllm-0.23")
    ),
    EngineProfile(
        name="sglang-0.5",
        **HIDDEN_HOST,
        capture_sizes=SGLANG_CAPTURE_SIZES,
        kernels="sglang",
        async_scheduling=True,
        sources=HIDDEN_FROM
        | {
            "capture_sizes": "sglang/srt/server_args.py, _generate_cuda_graph_batch_sizes",
            "kernels": "SGLang's own tables, vLLM's where it has none",
            "async_scheduling": "sglang/srt/server_args.py: the overlap scheduler is on by default",
            "receive_every_steps": "sglang/srt/server_args.py, scheduler_recv_interval",
        },
    ),
    EngineProfile(
        name="trtllm-1.0",
        **HIDDEN_HOST,
        capture_sizes=TRTLLM_CAPTURE_SIZES,
        kernels="trtllm",
        async_scheduling=True,
        sources=HIDDEN_FROM
        | {
            "capture_sizes": "tensorrt_llm/llmapi/llm_args.py, CudaGraphConfig",
            "kernels": "TensorRT-LLM's own tables, vLLM's where it has none",
            "async_scheduling": "tensorrt_llm/llmapi/llm_args.py: disable_overlap_scheduler is off",
            "receive_every_steps": "tensorrt_llm/_torch/pyexecutor/py_executor.py: before every step",
        },
    ),
    EngineProfile("none", 0.0, 0.0, (), sources={"host_step_s": "kernels alone"}),
)
ENGINE_PROFILES = {profile.name: profile for profile in _LISTED}
DEFAULT_ENGINE = "vllm-0.12"
SCHEMA_VERSION = 1


def profile_of(engine: str, version: str = "") -> EngineProfile:
    """The profile of an engine's version: the newest listed one that is not newer; without a version, or
    with one that is no number, the newest of all.

    Raises:
        UserError: no profile of that engine.
    """
    listed = [p for p in _LISTED if p.name.partition("-")[0] == engine and "-" in p.name]
    if not listed:
        names = sorted({p.name.partition("-")[0] for p in _LISTED if "-" in p.name})
        hint = did_you_mean(engine, names)
        raise UserError(f"no profile of engine {engine!r}{hint}; there are {', '.join(names)}")
    asked = _number(version)
    fitting = [p for p in listed if asked and _number(p.since or p.name) <= asked]
    return (fitting or listed[:1])[-1] if asked else listed[-1]


def _number(version: str) -> tuple[int, ...]:
    """The first two parts of a version, () where it has none."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def profile_json(profile: EngineProfile) -> str:
    """What `read_profile` reads."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(profile)}, indent=2) + "\n"


def read_profile(path: Path) -> EngineProfile:
    """A profile that ``servecast calibrate`` wrote.

    Raises:
        UserError: the file is none, or a term of it is not a number that it can be.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise UserError(f"{path}: is no engine profile of servecast calibrate")
        if found.pop("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{path}: another version's engine profile; calibrate again")
        profile = EngineProfile(**{**found, "capture_sizes": tuple(found["capture_sizes"])})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is no engine profile of servecast calibrate: {error}") from error
    wrong = _wrong(profile)
    if wrong:
        raise UserError(f"{path}: {wrong}")
    return profile


_TERMS = (
    "host_step_s",
    "host_per_sequence_s",
    "client_s",
    "matrix_factor",
    "attention_factor",
    "overlap",
)


def _wrong(profile: EngineProfile) -> str:
    """What of a profile from a file is not what it can be; "" where all is well."""
    for name in _TERMS:
        value = getattr(profile, name)
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            return f"{name} {value!r} must be a number of 0 or more"
    for name in ("name", "kernels", "since"):
        if not isinstance(getattr(profile, name), str):
            return f"{name} {getattr(profile, name)!r} must be text"
    if not isinstance(profile.async_scheduling, bool):
        return f"async_scheduling {profile.async_scheduling!r} must be true or false"
    sizes = profile.capture_sizes
    for size in (*sizes, profile.receive_every_steps):
        if type(size) is not int or size < 1:
            return f"capture_sizes and receive_every_steps are numbers of 1 or more, not {size!r}"
    if list(sizes) != sorted(set(sizes)):
        return "capture_sizes must rise"
    if not isinstance(profile.sources, dict) or "host_step_s" not in profile.sources:
        return "sources must tell at least where host_step_s comes from"
    return ""
