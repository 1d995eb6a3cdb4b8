"""What kernels take in a real vLLM's steps, beside what the agent says of the same shapes, in one process.

    PYTHONPATH=live/links $SERVECAST_VLLM_PYTHON benchmarks/live_operators.py [live | host-probe] [SEQUENCES]

`live` is the folder that `live_vllm.py --out live` has filled. The engine decodes so many sequences for a
while; then the agent measures, by ``cpu_step``, as for the comparison. Both are the thread's processor time,
medians over two turns of either, of which the calmer counts. Where the agent says more than a step takes,
the comparison's host terms come out as much too small.
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from live_machine import HOST_PROBE, LIVE, MAX_BATCHED_TOKENS, MAX_NUM_SEQS, MAX_SAMPLES, SKU, Model
from vllm_in_process import RESERVED, SamplingParams, synchronous_engine

from servecast.agent.cpu import CpuBackend
from servecast.agent.kernels.registry import offers
from servecast.agent.messages import Outcome, Placement, Settings
from servecast.agent.profiler import Profiler
from servecast.compiler.kernels import KernelCase

PROMPT, STEPS, WARM_UPS, TURNS = 200, 40, 3, 2


def cases_of(model: Model, rows: int) -> dict[str, KernelCase]:
    """By the layer's module."""
    qkv = (model.heads + 2 * model.kv_heads) * (model.hidden // model.heads)
    norm = {"per_row": 1, "residual": 1, "rows": rows, "width": model.hidden}
    return {
        "self_attn.qkv_proj": product(rows, model.hidden, qkv),
        "self_attn.o_proj": product(rows, model.hidden, model.hidden),
        "post_attention_layernorm": KernelCase("rms_norm", "bf16", "", tuple(norm.items())),
        "mlp.gate_up_proj": product(rows, model.hidden, 2 * model.ffn),
        "mlp.act_fn": KernelCase("swiglu", "bf16", "", (("rows", rows), ("width", model.ffn))),
        "mlp.down_proj": product(rows, model.ffn, model.hidden),
    }


def product(rows: int, inner: int, outer: int) -> KernelCase:
    dims = (("in_features", inner), ("out_features", outer), ("rows", rows))
    return KernelCase("linear", "bf16", "", dims)


class Engine:
    """A real one whose kernels are timed while it decodes."""

    def __init__(self, model: Model) -> None:
        limits = {"max_num_seqs": MAX_NUM_SEQS, "max_num_batched_tokens": MAX_BATCHED_TOKENS}
        self._engine = synchronous_engine(model.config, max_model_len=model.context, **limits)
        self._core = self._engine.engine_core.engine_core
        self._model, self._rng = model, random.Random(0)
        self._took_us: dict[str, list[float]] = defaultdict(list)
        self._sent = 0
        worker = self._core.model_executor.driver_worker.worker
        for layer in worker.model_runner.model.model.layers:
            for name in cases_of(model, 1):
                module = layer.get_submodule(name)
                what = "cpu_linear" if hasattr(module, "cpu_linear") else "forward"
                setattr(module, what, self._timed(name, getattr(module, what)))

    def _timed(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begin_ns = time.thread_time_ns()
            found = kernel(*args)
            self._took_us[name].append((time.thread_time_ns() - begin_ns) / 1e3)
            return found

        return timed

    def kernels_us(self, sequences: int) -> dict[str, float]:
        """Medians by module, of steps that decode so many."""
        with self._decoding(sequences):
            self._took_us.clear()
            for _ in range(STEPS):
                self._engine.step()
            return {name: median(took) for name, took in self._took_us.items()}

    @contextmanager
    def _decoding(self, sequences: int) -> Iterator[None]:
        tokens = sequences + WARM_UPS + STEPS + 2 * MAX_NUM_SEQS
        asked = {"temperature": 0.0, "max_tokens": tokens, "min_tokens": tokens}
        for _ in range(sequences):
            ids = [self._rng.randrange(RESERVED, self._model.vocab) for _ in range(PROMPT)]
            sampling = SamplingParams(**asked, ignore_eos=True, detokenize=False)
            self._sent += 1
            self._engine.add_request(str(self._sent), {"prompt_token_ids": ids}, sampling)
        running = self._core.scheduler.running
        while len(running) < sequences or any(r.num_computed_tokens < PROMPT for r in running):
            self._engine.step()
            running = self._core.scheduler.running
        for _ in range(WARM_UPS):
            self._engine.step()
        yield
        while self._engine.has_unfinished_requests():
            self._engine.step()


def agent_us(agent: Profiler, case: KernelCase) -> float:
    settings = Settings(method="cpu_step", max_samples=MAX_SAMPLES)
    *_, last = agent.profile(case, settings, Placement(), lambda: False)
    assert isinstance(last, Outcome)
    assert last.statistics is not None
    return last.statistics.median_us


def main() -> None:
    asked = sys.argv[1:] or [LIVE.name]
    model = {m.name: m for m in (LIVE, HOST_PROBE)}[asked[0]]
    sequences = int(asked[1]) if asked[1:] else 4
    engine, backend = Engine(model), CpuBackend(1)
    backend.enter(0)
    agent = Profiler(backend, SKU, offers(("vllm", "torch"), backend.capability))
    cases, in_step, alone = cases_of(model, sequences), [], []
    for _ in range(TURNS):
        in_step.append(engine.kernels_us(sequences))
        alone.append({name: agent_us(agent, case) for name, case in cases.items()})
    print(f"{model.name + f', {sequences} rows':<26}{'in a step':>12}{'agent':>12}{'error':>8}")
    for name in cases:
        step_us, said_us = (min(turn[name] for turn in turns) for turns in (in_step, alone))
        print(f"{name:<26}{step_us:>9.1f} us{said_us:>9.1f} us{said_us / step_us - 1:>8.1%}")


if __name__ == "__main__":
    main()
