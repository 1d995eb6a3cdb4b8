"""Predicted against measured means of the 106 open-loop runs that APEX+ recorded on eight H100.

    python benchmarks/apex_gate.py ../shared/data/measured/apex-plus-h100-vllm-0.6 --store apex.duckdb

vLLM 0.6.0 (engine V0) and SGLang 0.4 without CUDA graphs; `apex_runs.py` says what was recorded. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from apex_runs import FIRST_TOLD, Run, read_runs
from silicon_placed import BLOCK_TOKENS

from servecast.compiler.catalog import compile_text, shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.memory import plan_memory
from servecast.compiler.program import Program
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.engine_profile import EngineProfile, profile_of
from servecast.estimator.load import TableLoader
from servecast.estimator.tables import TableBounds
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Engine, Fleet

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = {
    "Llama-3.1-70B": ("llama", "llama-3.1-70b", "bf16"),
    "Mistral-Large-Instruct-2407-FP8": ("mistral", "mistral-large", "fp8"),
    "Mixtral-8x22B-Instruct": ("mixtral", "mixtral-8x22b", "bf16"),
}
UTILISATION = 0.97  # as the runs were started
MAX_SEQS = 256
MAX_MODEL_TOKENS = 24272  # --max-model-len where two GPUs serve; no flag elsewhere
CHUNK_TOKENS = 512  # vllm 0.6.0, config.py: a step's tokens where prompts are cut
"""vllm 0.6.0, engine/arg_utils.py: prompts are cut where a model's context is above 32,768 tokens."""
SGLANG_TOKENS = 8192  # sglang 0.4.4, server_args.py: chunked_prefill_size on 80 GB
TRIED_S = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04)


def program_of(run: Run) -> Program:
    file, name, weights = MODELS[run.model]
    text = (REPOSITORY / "spec" / f"{file}.llm").read_text(encoding="utf-8")
    cache = "fp8" if weights == "fp8" else "bf16"  # --kv-cache-dtype fp8
    served = f'model "served" like "{name}" {{\n    weights {weights}\n    kv_cache {cache}\n}}\n'
    return compile_text(f"{text}\n{served}", f"{file}.llm").model("served")


class Predictor:
    """Keeps tables between runs."""

    def __init__(self, store: Path, engine: EngineProfile | None = None) -> None:
        self._store, self._given, self._engine = store, engine, Engine()
        self._fleets: dict[str, Fleet] = {}

    def means_s(self, run: Run) -> tuple[float, float]:
        """TTFT, with what lies outside the engine, and TPOT.

        Raises:
            UserError: it cannot be predicted.
        """
        if run.workload is None:
            raise UserError("its trace is not among the data")
        records = self._engine.run(run.workload, self._fleet(run))
        done = records.finished & (records.output_tokens > 1)
        if not done.any():
            raise UserError(f"{run.name}: nothing finished")
        decoding_s = records.finish_s - records.first_token_s
        told = np.minimum(FIRST_TOLD[run.engine], records.output_tokens) - 1
        told_s = decoding_s * told / np.maximum(records.output_tokens - 1, 1)
        ttft_s = (records.first_token_s + told_s - records.arrival_s)[records.finished].mean()
        ttft_s += self._profile(run).client_s
        return float(ttft_s), float(
            decoding_s[done].sum() / records.output_tokens[records.finished].sum()
        )

    def _profile(self, run: Run) -> EngineProfile:
        version = "0.6.0" if run.engine == "vllm" else "0.4.4"
        return self._given or profile_of(run.engine, version)

    def _fleet(self, run: Run) -> Fleet:
        engine = replace(self._profile(run), client_s=0.0)
        key = repr((run.model, run.engine, run.tp, run.ep))
        if key not in self._fleets:
            sku = shipped_skus()["h100-sxm"]
            sharded = shard(program_of(run), Parallelism(tp=run.tp, ep=run.ep))
            tokens = _tokens_a_step(run)
            plan = plan_memory(sharded, sku.memory_bytes, _utilisation(run), tokens, MAX_SEQS)
            if plan.kv_blocks < 1:
                raise UserError("the weights leave no room for a KV cache")
            limits = EngineLimits(MAX_SEQS, tokens, plan.kv_blocks, BLOCK_TOKENS)
            bounds = TableBounds(
                tokens, MAX_SEQS, sharded.context_tokens, plan.kv_blocks * BLOCK_TOKENS
            )
            loader = TableLoader(self._store, engine=engine)
            whole = run.engine == "vllm" and tokens > CHUNK_TOKENS
            policy = "vllm_v0" if whole else "vllm_v1"
            self._fleets[key] = Fleet(loader.tables(sharded, sku, bounds), limits, policy=policy)
        return self._fleets[key]


def _tokens_a_step(run: Run) -> int:
    """Prompts are whole where ``--max-model-len`` makes the context short."""
    if run.engine == "sglang":
        return SGLANG_TOKENS
    return MAX_MODEL_TOKENS if run.tp == 2 else CHUNK_TOKENS


def _utilisation(run: Run) -> float:
    return 0.85 if run.tp == 2 and run.model.startswith("Mistral") else UTILISATION


def score(folder: Path, store: Path, engine: EngineProfile | None = None) -> dict[str, Any]:
    """Errors by engine, model and degree, of TTFT and TPOT run by run and summed up, and every run that was
    not answered.
    """
    predictor = Predictor(store, engine)
    errors: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    refused = []
    for run in read_runs(folder):
        try:
            ttft_s, tpot_s = predictor.means_s(run)
        except UserError as error:
            refused.append({"run": run.name, "reason": str(error)})
            continue
        tpot = None if run.tpot_s is None else tpot_s / run.tpot_s - 1
        label = "ep" if run.ep > 1 else "tp"
        errors[f"{run.engine} {run.model} {label}{run.tp}"].append((ttft_s / run.ttft_s - 1, tpot))
    groups = {name: summary(rows) for name, rows in sorted(errors.items())}
    every = [row for rows in errors.values() for row in rows]
    found = {"runs": len(every), "all": summary(every), "groups": groups, "refused": refused}
    return found | {"errors": errors}


def summary(rows: list[tuple[float, float | None]]) -> dict[str, Any]:
    """Medians of absolute errors and of errors."""
    tpot = [error for _, error in rows if error is not None]
    return {
        "runs": len(rows),
        "ttft": statistics.median(abs(error) for error, _ in rows),
        "ttft_bias": statistics.median(error for error, _ in rows),
        "tpot": statistics.median(map(abs, tpot)) if tpot else None,
        "tpot_bias": statistics.median(tpot) if tpot else None,
    }


def fit(folder: Path, store: Path) -> dict[float, dict[str, float]]:
    """Median TTFT error by ``client_s``, of the model that it may be fitted to and of the one held out."""
    base = replace(profile_of("vllm", "0.6"), client_s=0.0)
    predictor = Predictor(store, base)
    pairs = []
    for run in read_runs(folder):
        if run.engine == "vllm" and run.workload is not None:
            pairs.append((run, predictor.means_s(run)[0]))
    return {
        client_s: {
            model: statistics.median(
                abs((ttft_s + client_s) / run.ttft_s - 1)
                for run, ttft_s in pairs
                if run.model == model
            )
            for model in ("Llama-3.1-70B", "Mistral-Large-Instruct-2407-FP8")
        }
        for client_s in TRIED_S
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--fit", action="store_true", help="TTFT errors by time outside the engine")
    asked = parser.parse_args()
    found = (fit if asked.fit else score)(asked.folder, asked.store)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
