"""Host time of vLLM's synchronous step, by its sequences, on this machine: what stands beside the kernels.

Runs under a Python that has vLLM; a CPU build will do:

    python benchmarks/vllm_host.py

A model of one tiny layer decodes so many requests at once. Of a step counts what the engine's thread has of
the processor, without the model's forward pass, and with the pickling of the two messages that an engine on
several GPUs sends to its workers and gets back. Prints the medians, and the line through them, each weighed
by what it is off by of itself: `host_step_s` and `host_per_sequence_s` of an engine profile.
"""

from __future__ import annotations

import json
import pickle
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from vllm_in_process import RESERVED, SamplingParams, __version__, synchronous_engine

VOCAB = 512
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
}
SEQUENCES = (8, 16, 32, 64, 128)
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 60


def main() -> None:
    engine = synchronous_engine(
        MODEL, max_model_len=2048, max_num_seqs=max(SEQUENCES), max_num_batched_tokens=8192
    )
    watch = Watch(engine.engine_core.engine_core)
    host_s = {count: host_of(engine, watch, count) for count in SEQUENCES}
    step_s, per_sequence_s = line(host_s)
    told = {
        "vllm": __version__,
        "host_ms": {count: round(1e3 * seconds, 3) for count, seconds in host_s.items()},
        "host_step_s": round(step_s, 6),
        "host_per_sequence_s": round(per_sequence_s, 7),
    }
    print(json.dumps(told, indent=1))


class Watch:
    """What the engine's thread spends in a step and in its forward pass, and the step's two messages. What
    turns outputs into text is another process's in a server, and is not watched.
    """

    def __init__(self, core: Any) -> None:
        self.spent_s = {"step": 0.0, "forward": 0.0}
        self.messages: tuple[Any, ...] = ()
        runner = core.model_executor.driver_worker.worker.model_runner
        update = core.scheduler.update_from_output
        core.step_fn = self._timed("step", core.step_fn)
        runner._model_forward = self._timed("forward", runner._model_forward)

        def updated(batch: Any, output: Any) -> Any:
            self.messages = batch, output
            return update(batch, output)

        core.scheduler.update_from_output = updated

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **keywords: Any) -> Any:
            begin_s = time.thread_time()
            found = call(*args, **keywords)
            self.spent_s[name] = time.thread_time() - begin_s
            return found

        return timed

    @property
    def host_s(self) -> float:
        """Of the last step."""
        return self.spent_s["step"] - self.spent_s["forward"] + pickled_s(self.messages)


def host_of(engine: Any, watch: Watch, count: int) -> float:
    """Median seconds of the steps in which so many requests decode and none has a prompt."""
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=OUTPUT_TOKENS,
        min_tokens=OUTPUT_TOKENS,
        ignore_eos=True,
        detokenize=False,
    )
    rng = random.Random(count)
    for number in range(count):
        ids = [rng.randrange(RESERVED, VOCAB) for _ in range(PROMPT_TOKENS)]
        engine.add_request(f"{count}-{number}", {"prompt_token_ids": ids}, sampling)
    found = []
    while engine.has_unfinished_requests():
        engine.step()
        tokens = watch.messages[0].num_scheduled_tokens.values()
        if len(tokens) == count and max(tokens) == 1:
            found.append(watch.host_s)
    return statistics.median(found)


def pickled_s(messages: tuple[Any, ...]) -> float:
    """One side writes a message, the other reads it."""
    begin_s = time.thread_time()
    for message in messages:
        pickle.loads(pickle.dumps(message, protocol=5))
    return time.thread_time() - begin_s


def line(host_s: dict[int, float]) -> tuple[float, float]:
    counts, seconds = np.array(list(host_s)), np.array(list(host_s.values()))
    terms = np.stack([np.ones(len(counts)), counts], axis=1) / seconds[:, None]
    step_s, per_sequence_s = np.linalg.lstsq(terms, np.ones(len(counts)), rcond=None)[0]
    return float(step_s), float(per_sequence_s)


if __name__ == "__main__":
    main()
