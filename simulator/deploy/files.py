"""A configuration of the answer as files that start it and load it. Pure.

The row of a configuration that serves prefill and decode apart holds one row for each role, under ``prefill``
and ``decode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servecast.compiler.errors import UserError
from servecast.simulator.deploy.engines import (
    ENGINES,
    PORT,
    QUANTISED,
    Command,
    Row,
    trtllm_file,
    trtllm_settings,
)
from servecast.simulator.deploy.kubernetes import dynamo_graph, kubernetes
from servecast.simulator.deploy.llm_d import llm_d

LOAD_TEST_S = 600
ROLES = ("prefill", "decode")
COMPARE = (
    "these are of the trace's own lengths; this sends their means alone: servecast validate replays what it",
    "saves, with the lengths that it sent, and says how far off the prediction was",
)


def load_test(result: Row, model: str) -> Command:
    """``vllm bench serve`` at the trace's rate and burstiness, with its mean lengths, for ten minutes."""
    traffic = result["workload"]
    rate_per_s, cv = _rate(traffic), traffic["gap_cv"]
    options = (
        ("--model", model),
        ("--base-url", f"http://localhost:{PORT}"),
        ("--dataset-name", "random"),
        ("--random-input-len", str(round(traffic["prompt_tokens"]["mean"]))),
        ("--random-output-len", str(round(traffic["output_tokens"]["mean"]))),
        ("--ignore-eos",),
        ("--num-prompts", str(_requests(rate_per_s))),
        ("--request-rate", f"{rate_per_s:.3f}"),
        *((("--burstiness", f"{1 / cv**2:.3f}"),) if cv else ()),
        ("--percentile-metrics", "ttft,tpot,itl,e2el"),
        ("--metric-percentiles", "50,90,99"),
        ("--save-result",),
    )
    return Command(("vllm", "bench", "serve"), options)


def guidellm_test(result: Row, model: str) -> Command:
    """The same load from guidellm, as Poisson arrivals.

    Mean lengths alone: with a longest one and no deviation guidellm draws evenly from the mean up to it.
    """
    traffic = result["workload"]
    prompt, output = (round(traffic[name]["mean"]) for name in ("prompt_tokens", "output_tokens"))
    rate_per_s = _rate(traffic)
    data = f"kind=synthetic_text,prompt_tokens={prompt},output_tokens={output}"
    options = (
        ("--backend", f"kind=openai_http,target=http://localhost:{PORT},model={model}"),
        ("--profile", f"kind=poisson,rate={rate_per_s:.3f}"),
        ("--constraint", f"kind=max_duration,seconds={LOAD_TEST_S}"),
        ("--tokenizer", f"kind=huggingface_auto,model={model}"),
        ("--data", data),
        ("--output", "kind=json,path=guidellm.json"),
    )
    return Command(("guidellm", "run"), options)


def files(result: Row, rank: int) -> dict[str, str]:
    """File names and texts for the configuration at ``rank`` (from 1) of a result.

    Raises:
        UserError: the result's trace has no rate to test with.
    """
    row, model = result["ranked"][rank - 1], result["question"]["source"]
    roles = {role: {**row[role], "role": role} for role in ROLES if row.get(role)}
    texts: dict[str, str] = {}
    for role, part in roles.items() or ((None, row),):
        texts |= _scripts(result, part, model, f"-{role}" if role else "")
    if roles:
        texts["dynamo.json"] = dynamo_graph(roles, model)
    else:
        texts["kubernetes.json"] = kubernetes(row, model)
    texts |= llm_d(roles.values() or [row], model)
    predicted = _predicted(result, rank)
    texts["load-test.sh"] = load_test(result, model).script(*predicted)
    texts["load-test-guidellm.sh"] = guidellm_test(result, model).script(*predicted)
    return texts


def _predicted(result: Row, rank: int) -> list[str]:
    """At the rate that the tests send, which a result tells of its best alone, and at capacity."""
    row, best = result["ranked"][rank - 1], result["best"]
    full = f"predicted when full, at {row['qps']:.3f} requests/s: {_latencies(row['metrics'])}"
    told = [full, *COMPARE]
    if rank > 1 or not best.get("at_trace_rate"):
        return told
    return [f"predicted at this rate: {_latencies(best['at_trace_rate']['metrics'])}", *told]


def _latencies(metrics: Row) -> str:
    ttft_s, tbt_s = metrics["ttft_s"]["p90"], metrics["tbt_s"]["p99"]
    return f"ttft p90 {ttft_s:.3f} s, tbt p99 {tbt_s:.3f} s"


def _scripts(result: Row, row: Row, model: str, suffix: str) -> dict[str, str]:
    says = [f"{result['question']['model']}: one of {row['replicas']} replicas on {row['sku']}"]
    if row.get("precision") in QUANTISED:
        says.append(f"put a checkpoint that is quantised to {row['precision']} in place of {model}")
    if int(row["replicas"]) > 1 and row.get("router"):
        says.append(f"predicted with the router {row['router']} before the replicas")
    texts = {
        f"{name}{suffix}.sh": command(row, model).script(*says) for name, command in ENGINES.items()
    }
    settings = trtllm_settings(row)
    if settings:
        texts[trtllm_file(row)] = "".join(f"{line}\n" for line in settings)
    return texts


def _rate(traffic: Mapping[str, Any]) -> float:
    rate_per_s = traffic["rate_per_s"]
    if rate_per_s is None:
        raise UserError("the result's trace has all requests at one instant: no rate to test with")
    return float(rate_per_s)


def _requests(rate_per_s: float) -> int:
    return max(1, round(rate_per_s * LOAD_TEST_S))
