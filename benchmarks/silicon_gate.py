"""Predicted against measured time to first token and per output token, over the public serving points.

    python benchmarks/silicon_gate.py ../shared/data/measured/silicon --store silicon.duckdb --dense

Each row of dev.csv is a closed loop: C clients send 10 C prompts, lengths uniform in [0.8 L, L], every output
token forced, no prefix reuse. It is simulated from the public operator timings; nothing is fitted to
any row. Prints one JSON object: errors by group beside AIConfigurator's on the same rows, and every row
that was not answered with its reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from servecast.compiler.catalog import compile_text, shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.program import Program
from servecast.estimator.load import TableLoader
from servecast.simulator.arrivals import stream
from servecast.simulator.records import Records
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.plan import bounds
from servecast.simulator.simulate import Setup, place
from servecast.simulator.workload import Workload

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS_PER_CLIENT = 10
SHORTEST = 0.8
"""Lengths are uniform in [0.8 L, L]."""

MIN_SEQS = 256
MAX_BATCHED_TOKENS = 8192
"""The points do not tell their engines' limits: these are vLLM's defaults for a server on such a GPU."""

MODELS = {
    "meta-llama/Llama-3.1-70B": ("llama", "llama-3.1-70b"),
    "Qwen/Qwen3-32B": ("qwen3", "qwen3-32b"),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3", "qwen3-32b"),
    "deepseek-ai/DeepSeek-R1": ("deepseek-v3", "deepseek-v3"),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek-v3", "deepseek-v3"),
    "openai/gpt-oss-120b": ("gpt-oss", "gpt-oss-120b"),
}
DENSE = ("Llama", "Qwen3-32B")
WEIGHTS = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "bf16", "": "bf16"}


@dataclass(frozen=True, slots=True)
class Case:
    """One measured point, in milliseconds. ``peer`` is AIConfigurator's answer, None where it refuses."""

    id: str
    model: str
    system: str
    backend: str
    precision: str
    isl: int
    osl: int
    tp: int
    pp: int
    ep: int
    dp: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    peer_ttft_ms: float | None
    peer_tpot_ms: float | None

    @property
    def sku(self) -> str:
        return self.system.replace("_", "-")

    @property
    def kv_cache(self) -> str:
        """Not told by the points. NVIDIA's quantised checkpoints ask for FP8, and TensorRT-LLM follows."""
        quantised = self.precision in ("fp8", "fp4")
        return "fp8" if quantised and self.backend == "trtllm" else "bf16"

    @property
    def group(self) -> str:
        """Rows that are reported together."""
        return f"{self.model} {self.precision or 'bf16'} {self.system} {self.backend}"


def read_cases(folder: Path) -> list[Case]:
    """The aggregated rows, each beside the peer's prediction."""
    with (folder / "dev-aiconfigurator-0.12-predictions.csv").open() as file:
        peers = {row["id"]: row for row in csv.DictReader(file)}
    with (folder / "dev.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    return [_case(row, peers.get(row["id"], {})) for row in rows]


def _case(row: dict[str, str], peer: dict[str, str]) -> Case:
    concurrency = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    return Case(
        id=row["id"],
        model=row["model_path"],
        system=row["system"],
        backend=row["backend"],
        precision=row["precision"],
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        tp=int(row["tp_size"]),
        pp=int(row["pp_size"] or 1),
        ep=int(row["moe_ep_size"] or 1),
        dp=int(row["attention_dp_size"] or 1),
        concurrency=int(concurrency[1] if concurrency else row["batch_size"]),
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
        peer_ttft_ms=float(peer["predicted_ttft_ms"]) if peer.get("predicted_ttft_ms") else None,
        peer_tpot_ms=float(peer["predicted_tpot_ms"]) if peer.get("predicted_tpot_ms") else None,
    )


@cache
def program_of(model: str, precision: str, kv_cache: str) -> Program:
    """The shipped spec, its weights in the precision of the point."""
    if model not in MODELS:
        raise UserError("no spec of this model")
    file, name = MODELS[model]
    text = (REPOSITORY / "spec" / f"{file}.llm").read_text(encoding="utf-8")
    changes = f"weights {WEIGHTS[precision]}\n    kv_cache {kv_cache}"
    quantised = f'\nmodel "served" like "{name}" {{\n    {changes}\n}}\n'
    return compile_text(text + quantised, f"{file}.llm").model("served")


def closed_loop(case: Case, seed: int = 0) -> Workload:
    """The prompts in the order that the clients take them; the arrival times are not used."""
    num_requests = PROMPTS_PER_CLIENT * case.concurrency
    rng = stream(seed, f"silicon {case.isl} {case.osl} {case.concurrency}")
    prompt, output = (
        rng.integers(int(SHORTEST * length), length + 1, num_requests)
        for length in (case.isl, case.osl)
    )
    return Workload(case.id, np.zeros(num_requests), np.maximum(prompt, 1), np.maximum(output, 1))


@dataclass(frozen=True, slots=True)
class Answer:
    case: Case
    ttft_ms: float
    tpot_ms: float


class Predictor:
    """Answers cases, keeping tables and buffers between them."""

    def __init__(self, loader: TableLoader) -> None:
        self._loader = loader
        self._engine = Engine()
        self._fleets: dict[Setup, Fleet] = {}

    def answer(self, case: Case) -> Answer:
        """
        Raises:
            UserError: the point is beyond the specs, the GPUs or the tables.
        """
        if case.dp > 1 or case.ep > 1:
            raise UserError("data-parallel attention or expert parallelism is not searched yet")
        fleet = self._fleet(case)
        records = self._engine.run(closed_loop(case), fleet, concurrency=case.concurrency)
        return Answer(case, *(1e3 * value for value in _means_s(records)))

    def _fleet(self, case: Case) -> Fleet:
        seqs = max(MIN_SEQS, 1 << (case.concurrency - 1).bit_length())
        setup = Setup(
            program_of(case.model, case.precision, case.kv_cache),
            case.sku,
            case.tp,
            case.pp,
            max_num_seqs=seqs,
            max_batched_tokens=max(MAX_BATCHED_TOKENS, seqs),
        )
        if setup not in self._fleets:
            placement = place(setup, shipped_skus())
            tables = self._loader.tables(placement.sharded, placement.sku, bounds(placement))
            self._fleets[setup] = Fleet(tables, placement.candidates[0].limits)
        return self._fleets[setup]


def _means_s(records: Records) -> tuple[float, float]:
    """Mean TTFT, and mean TPOT, of the requests that finished."""
    done = records.finished & (records.output_tokens > 1)
    if not done.any():
        raise UserError("no request fits the KV cache")
    first_s = records.first_token_s[done]
    tpot_s = (records.finish_s[done] - first_s) / (records.output_tokens[done] - 1)
    return float((first_s - records.arrival_s[done]).mean()), float(tpot_s.mean())


def run(cases: Iterable[Case], loader: TableLoader) -> tuple[list[Answer], list[dict[str, str]]]:
    """Answers, and refusals with their reason."""
    predictor = Predictor(loader)
    answers, refused = [], []
    for case in cases:
        try:
            answers.append(predictor.answer(case))
        except UserError as error:
            refused.append({"id": case.id, "model": case.model, "reason": str(error)})
    return answers, refused


def grouped(answers: list[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.case.group].append(answer)
    return groups


def summary(answers: list[Answer]) -> dict[str, Any]:
    """Absolute percentage errors of the rows, ours and the peer's on those that both answer."""
    ttft = [abs(a.ttft_ms / a.case.ttft_ms - 1) for a in answers]
    tpot = [abs(a.tpot_ms / a.case.tpot_ms - 1) for a in answers]
    both = [a for a in answers if a.case.peer_ttft_ms and a.case.peer_tpot_ms]
    return {
        "rows": len(answers),
        "ttft": _errors(ttft),
        "tpot": _errors(tpot),
        "tpot_bias": statistics.median(a.tpot_ms / a.case.tpot_ms - 1 for a in answers),
        "ttft_bias": statistics.median(a.ttft_ms / a.case.ttft_ms - 1 for a in answers),
        "peer_rows": len(both),
        "peer_ttft": _errors([abs((a.case.peer_ttft_ms or 0) / a.case.ttft_ms - 1) for a in both]),
        "peer_tpot": _errors([abs((a.case.peer_tpot_ms or 0) / a.case.tpot_ms - 1) for a in both]),
    }


def _errors(errors: list[float]) -> dict[str, float] | None:
    if not errors:
        return None
    return {"mean": statistics.fmean(errors), "median": statistics.median(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dense", action="store_true", help="dense models only")
    parser.add_argument("--system", action="append", help="h100_sxm, …; all by default")
    parser.add_argument("--backend", action="append", help="vllm, …; all by default")
    parser.add_argument("--rows", type=Path, help="write every answer as CSV")
    asked = parser.parse_args()
    cases = [
        case
        for case in read_cases(asked.folder)
        if (not asked.dense or any(name in case.model for name in DENSE))
        and (not asked.system or case.system in asked.system)
        and (not asked.backend or case.backend in asked.backend)
    ]
    answers, refused = run(cases, TableLoader(asked.store))
    if asked.rows:
        _write_rows(asked.rows, answers)
    found = {
        "rows": len(cases),
        "coverage": len(answers) / len(cases) if cases else None,
        "all": summary(answers) if answers else None,
        "groups": {name: summary(rows) for name, rows in sorted(grouped(answers).items())},
        "refused": Counter(row["reason"] for row in refused).most_common(),
    }
    print(json.dumps(found, indent=1))


def _write_rows(path: Path, answers: list[Answer]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = ("model", "precision", "system", "backend", "tp", "isl", "osl", "concurrency")
        writer.writerow([*names, "ttft_ms", "ttft_predicted_ms", "tpot_ms", "tpot_predicted_ms"])
        for a in answers:
            shown = [getattr(a.case, name) for name in names]
            writer.writerow([*shown, a.case.ttft_ms, a.ttft_ms, a.case.tpot_ms, a.tpot_ms])


if __name__ == "__main__":
    main()
