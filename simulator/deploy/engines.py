"""One configuration as the commands of three engines. Pure.

Each sets the limits that were simulated by its own names. vLLM's and SGLang's are tested with their own
argument parsers, TensorRT-LLM's against the options in its source: its package needs CUDA to be installed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servecast.simulator.search.space import BLOCK_TOKENS, UTILISATION

Row = Mapping[str, Any]
Options = tuple[tuple[str, ...], ...]

PORT = 8000
HOST = "0.0.0.0"

QUANTISED = ("int4", "nvfp4", "mxfp4")
"""Precisions that an engine reads from a checkpoint; it does not make them when it starts."""

_VLLM_PRECISION: Mapping[str, Options] = {
    "bf16": (("--dtype", "bfloat16"),),
    "fp16": (("--dtype", "float16"),),
    "fp8": (("--quantization", "fp8"),),
    "fp8-kv": (("--quantization", "fp8"), ("--kv-cache-dtype", "fp8")),
}
_SGLANG_PRECISION: Mapping[str, Options] = {
    **_VLLM_PRECISION,
    "fp8-kv": (("--quantization", "fp8"), ("--kv-cache-dtype", "fp8_e4m3")),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its operands, and its options, each with its value if it has one."""

    program: tuple[str, ...]
    options: Options

    @property
    def words(self) -> list[str]:
        return [*self.program, *(word for option in self.options for word in option)]

    def script(self, *says: str) -> str:
        """A shell script that runs it, one option a line, below comments."""
        lines = [shlex.join(self.program), *(f"  {shlex.join(option)}" for option in self.options)]
        comments = "".join(f"# {line}\n" for line in says)
        return f"#!/bin/sh\n{comments}exec " + " \\\n".join(lines) + "\n"


def degree(row: Row, name: str) -> int:
    """A parallel degree; results from before there was a choice have none, and it was 1."""
    return int(row.get(name, 1))


def role_of(row: Row) -> str | None:
    """``prefill`` or ``decode`` of a disaggregated deployment, else None."""
    role: str | None = row.get("role")
    return role


def vllm_command(row: Row, model: str, port: int = PORT) -> Command:
    """Flags as of vLLM 0.32."""
    dp, ep = degree(row, "dp"), degree(row, "ep")
    transfer = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    return Command(
        ("vllm", "serve", model),
        (
            ("--port", str(port)),
            ("--tensor-parallel-size", str(row["tp"])),
            ("--pipeline-parallel-size", str(row["pp"])),
            *((("--data-parallel-size", str(dp)),) if dp > 1 else ()),
            *((("--enable-expert-parallel",),) if ep > 1 else ()),
            ("--max-num-seqs", str(row["max_num_seqs"])),
            ("--max-num-batched-tokens", str(row["max_batched_tokens"])),
            ("--max-model-len", "auto"),  # else it refuses to start where the cache is shorter
            ("--gpu-memory-utilization", str(UTILISATION)),
            ("--block-size", str(BLOCK_TOKENS)),
            ("--no-enable-prefix-caching",),
            *_VLLM_PRECISION.get(row.get("precision", ""), ()),
            *((("--kv-transfer-config", json.dumps(transfer)),) if role_of(row) else ()),
        ),
    )


def sglang_command(row: Row, model: str) -> Command:
    """Flags as of SGLang 0.5.23, whose sizes are those of all ranks of data-parallel attention together."""
    dp, ep, role = degree(row, "dp"), degree(row, "ep"), role_of(row)
    return Command(
        ("python3", "-m", "sglang.launch_server"),
        (
            ("--model-path", model),
            ("--host", HOST),
            ("--port", str(PORT)),
            ("--tp-size", str(row["tp"] * dp)),
            ("--pp-size", str(row["pp"])),
            *((("--attn-dp-size", str(dp)),) if dp > 1 else ()),
            *((("--ep-size", str(ep)),) if ep > 1 else ()),
            ("--max-running-requests", str(row["max_num_seqs"] * dp)),
            ("--chunked-prefill-size", str(row["max_batched_tokens"] * dp)),
            ("--mem-fraction-static", str(UTILISATION)),
            ("--disable-radix-cache",),
            *_SGLANG_PRECISION.get(row.get("precision", ""), ()),
            *((("--disaggregation-mode", role),) if role else ()),
            *((("--disaggregation-transfer-backend", "nixl"),) if role else ()),
        ),
    )


def trtllm_command(row: Row, model: str) -> Command:
    """Flags as of TensorRT-LLM 1.2; what has no flag is in a file beside it."""
    dp, ep, role = degree(row, "dp"), degree(row, "ep"), role_of(row)
    server = {"prefill": "context", "decode": "generation"}
    return Command(
        ("trtllm-serve", model),
        (
            ("--host", HOST),
            ("--port", str(PORT)),
            ("--tp_size", str(row["tp"] * dp)),
            ("--pp_size", str(row["pp"])),
            *((("--ep_size", str(ep)),) if ep > 1 else ()),
            ("--max_batch_size", str(row["max_num_seqs"])),
            ("--max_num_tokens", str(row["max_batched_tokens"])),
            ("--kv_cache_free_gpu_memory_fraction", str(UTILISATION)),
            ("--enable_chunked_prefill",),
            *((("--server_role", server[role]),) if role else ()),
            *((("--extra_llm_api_options", trtllm_file(row)),) if trtllm_settings(row) else ()),
        ),
    )


def trtllm_file(row: Row) -> str:
    role = role_of(row)
    return f"trtllm-{role}.yaml" if role else "trtllm.yaml"


def trtllm_settings(row: Row) -> list[str]:
    """Lines of YAML for what has no flag.

    SOURCE: TensorRT-LLM's docs/source/features/disagg-serving.md for the two that roles need.
    """
    role = role_of(row)
    return [
        *(["enable_attention_dp: true"] if degree(row, "dp") > 1 else []),
        *(["disable_overlap_scheduler: true"] if role == "prefill" else []),
        *(["cache_transceiver_config:", "  backend: DEFAULT"] if role else []),
    ]


ENGINES: dict[str, Callable[[Row, str], Command]] = {
    "vllm": vllm_command,
    "sglang": sglang_command,
    "trtllm": trtllm_command,
}
