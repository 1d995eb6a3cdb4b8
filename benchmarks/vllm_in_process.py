"""A real vLLM in this process, with random weights and one OpenMP thread.

It sets how vLLM runs before that is imported, and hands on what programs need of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
}

from vllm import LLM, SamplingParams, __version__  # type: ignore[import-not-found,unused-ignore]

__all__ = ["RESERVED", "SamplingParams", "__version__", "synchronous_engine"]

RESERVED = 16  # token ids at the beginning of the vocabulary that no prompt has


def synchronous_engine(model: Mapping[str, Any], **engine: Any) -> Any:
    """The LLMEngine of a model by its config.json; ``engine`` are more keywords of vllm.LLM."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model))
        llm = LLM(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="bfloat16",
            enforce_eager=True,
            enable_prefix_caching=False,
            async_scheduling=False,
            **engine,
        )
    return llm.llm_engine
