"""The public serving points: what was measured, on which model in which formats.

A row of dev.csv tells model, GPU, engine and lengths; `silicon_settings.py` says how the engine was started.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import UserError
from servecast.compiler.program import Program
from servecast.compiler.sharded import Parallelism

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = {
    "meta-llama/Llama-3.1-70B": ("llama", "llama-3.1-70b"),
    "Qwen/Qwen3-32B": ("qwen3", "qwen3-32b"),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3", "qwen3-32b"),
    "deepseek-ai/DeepSeek-R1": ("deepseek-v3", "deepseek-v3"),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek-v3", "deepseek-v3"),
    "openai/gpt-oss-120b": ("gpt-oss", "gpt-oss-120b"),
    "Qwen/Qwen3.5-397B-A17B": ("qwen3.5", "qwen3.5-397b-a17b"),
}
DENSE = ("Llama", "Qwen3-32B")
FITTED = ("meta-llama/Llama-3.1-70B", "deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-R1-NVFP4")
"""Constants may be fitted to these models' points; those of all others are only looked at."""

WEIGHTS = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "bf16", "": "bf16"}
# The makers' own fp8 checkpoints scale blocks of 128: deepseek-ai/DeepSeek-R1, Qwen/…-FP8.
SCALE_BLOCKS = ("deepseek-v3", "qwen3", "qwen3.5")
# NVIDIA's NVFP4 checkpoint of DeepSeek-R1 keeps the attention's projections in bf16, that of Qwen3.5 all
# but the routed experts.
KEPT_WIDE = ("as fused_qkv_a_proj", "as q_b_proj")
SHORTEST = 0.8
"""InferenceX draws lengths from [0.8 L, L] (random-range-ratio); NVIDIA's own runs fix them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One point in milliseconds, ``measured`` that day. ``peer`` is AIConfigurator's; None: it refuses.
    NVIDIA's are of a fleet with ``fleet_clients``; ``concurrency`` is one engine's. Where ``told`` is false
    the row gives an engine's largest batch in their place.
    """

    id: str
    model: str
    system: str
    backend: str
    version: str
    precision: str
    isl: int
    osl: int
    parallelism: Parallelism
    concurrency: int
    told: bool
    inferencex: bool
    measured: str
    image: str
    fleet_clients: int
    ttft_ms: float
    tpot_ms: float
    peer_ttft_ms: float | None
    peer_tpot_ms: float | None

    @property
    def sku(self) -> str:
        return self.system.replace("_", "-")

    @property
    def group(self) -> str:
        """Rows that are reported together."""
        return f"{self.model} {self.precision or 'bf16'} {self.system} {self.backend}"

    @property
    def is_dense(self) -> bool:
        return any(name in self.model for name in DENSE)

    @property
    def is_fitted(self) -> bool:
        return self.model in FITTED


def read_cases(folder: Path) -> list[Case]:
    """The aggregated rows, each beside the peer's prediction."""
    with (folder / "dev-aiconfigurator-0.12-predictions.csv").open() as file:
        peers = {row["id"]: row for row in csv.DictReader(file)}
    with (folder / "dev.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    return [_case(row, peers.get(row["id"], {})) for row in rows]


def _case(row: dict[str, str], peer: dict[str, str]) -> Case:
    source, parallelism = row["silicon_data_source"], parallelism_of(row)
    inferencex = "aic-auto-gap-analysis" not in source
    clients = re.search(r"silicon_concurrency=(\d+)", source)
    day = re.search(r"measured=(\d+-\d+-\d+)", source)
    image = re.search(r"image=([^;]+)", source)
    # NVIDIA's runs tell the clients of a fleet, and beside them the batch of one engine's rank.
    of_engine = int(float(row["batch_size"])) * parallelism.dp
    return Case(
        id=row["id"],
        model=row["model_path"],
        system=row["system"],
        backend=row["backend"],
        version=row["backend_version"],
        precision=row["precision"],
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        parallelism=parallelism,
        concurrency=int(clients[1]) if clients and inferencex else of_engine,
        told=clients is not None,
        inferencex=inferencex,
        measured=day[1] if day else "",
        image=image[1] if image else "",
        fleet_clients=int(clients[1]) if clients else of_engine,
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
        peer_ttft_ms=float(peer["predicted_ttft_ms"]) if peer.get("predicted_ttft_ms") else None,
        peer_tpot_ms=float(peer["predicted_tpot_ms"]) if peer.get("predicted_tpot_ms") else None,
    )


def parallelism_of(row: dict[str, str]) -> Parallelism:
    """As the engine ran. One of the file's sources multiplies tp (or dp) by ep and gives ep's value to
    moe_tp: the same measurements stand in its other sources with the plain degrees.
    """
    tp, ep = int(row["tp_size"]), int(row["moe_ep_size"] or 1)
    dp, moe_tp = int(row["attention_dp_size"] or 1), int(row["moe_tp_size"] or 1)
    if ep > 1 and moe_tp == ep and tp * dp == ep * ep:
        tp, dp = (tp // ep, dp) if dp == 1 else (tp, dp // ep)
    return Parallelism(tp=tp, pp=int(row["pp_size"] or 1), ep=max(1, ep), dp=max(1, dp))


@cache
def program_of(model: str, precision: str, kv_cache: str, module: str = "") -> Program:
    """The shipped spec, its weights in the precision of the point; gpt-oss has but one. ``module`` "-mtp" is
    the layer that drafts.
    """
    if model not in MODELS:
        raise UserError("no spec of this model")
    file, name = MODELS[model]
    text = (REPOSITORY / "spec" / f"{file}.llm").read_text(encoding="utf-8")
    changes = f"kv_cache {kv_cache}"
    if (file, precision) == ("qwen3.5", "fp4"):
        text = text.replace("choose 10", "choose 10  weights nvfp4")
    elif file != "gpt-oss":
        blocks = " per block 128" if precision == "fp8" and file in SCALE_BLOCKS else ""
        changes = f"weights {WEIGHTS[precision]}{blocks}\n    {changes}"
    if (file, precision) == ("deepseek-v3", "fp4"):
        for site in KEPT_WIDE:
            text = text.replace(site, f"weights bf16  {site}")
    quantised = f'\nmodel "served" like "{name}{module}" {{\n    {changes}\n}}\n'
    return compile_text(text + quantised, f"{file}.llm").model("served")
