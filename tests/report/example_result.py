"""A search result of the documented shape, made by formulas: no simulation ran."""

from __future__ import annotations

from typing import Any

PRICES = {"h100-sxm": 2.99, "a100-sxm-80gb": 1.79, "l40s": 0.86}
SPEEDS = {"h100-sxm": 10.0, "a100-sxm-80gb": 5.2, "l40s": 2.4}
TRACE_RATE_PER_S = 13.0


def distribution(p50: float, p90: float, p99: float) -> dict[str, float]:
    return {
        "p50": p50,
        "p90": p90,
        "p95": (p90 + p99) / 2,
        "p99": p99,
        "max": 2 * p99,
        "mean": 1.1 * p50,
    }


def metrics(load: float, speed: float) -> dict[str, dict[str, float] | None]:
    return {
        "ttft_s": distribution(2.0 * load / speed, 1.5 * load, 4.0 * load),
        "tbt_s": distribution(0.2 / speed, 0.35 / speed, 0.05 * load + 1 / (16 * speed)),
        "tpot_s": distribution(0.21 / speed, 0.3 / speed, 0.4 / speed),
        "e2e_s": distribution(40 / speed, 90 / speed, 190 / speed),
        "queue_delay_s": distribution(0.0, 0.2 * load, 1.1 * load),
    }


def configuration(sku: str, tp: int, max_num_seqs: int, max_batched_tokens: int) -> dict[str, Any]:
    speed = SPEEDS[sku] * tp**0.8
    qps = speed * (max_num_seqs / 256) ** 0.15 * (1 - abs(max_batched_tokens - 2048) / 20_000)
    replicas = -int(-TRACE_RATE_PER_S // qps)
    usd_per_hour = tp * PRICES[sku]
    return {
        "sku": sku,
        "tp": tp,
        "pp": 1,
        "policy": "vllm_v1",
        "max_num_seqs": max_num_seqs,
        "max_batched_tokens": max_batched_tokens,
        "replicas": replicas,
        "gpus": replicas * tp,
        "usd_per_hour": replicas * usd_per_hour,
        "qps_per_replica": qps,
        "qps_interval": [0.95 * replicas * qps, 1.05 * replicas * qps],
        "tied_with_best": False,
        "qps": replicas * qps,
        "qps_per_usd_hour": qps / usd_per_hour,
        "usd_per_million_output_tokens": usd_per_hour / (qps * 190 * 3600) * 1e6,
        "metrics": metrics(0.9 + 0.1 * max_batched_tokens / 8192, speed),
        "mfu": 0.32 / tp**0.3,
        "kv_use": {"mean": 0.61, "peak": 0.97},
        "mean_batch": 0.4 * max_num_seqs,
        "busy": 0.98,
        "preemptions": 3,
        "memory": {
            "weight_bytes": 16_060_522_496 // tp,
            "kv_blocks": 21_000 * tp,
            "block_tokens": 16,
            "kv_bytes": 44_040_192_000,
            "total_bytes": 85_899_345_920,
            "terms": {
                "weights_bytes": 16_060_522_496 // tp,
                "activations_bytes": 2_147_483_648,
                "cuda_context_bytes": 500_000_000,
            },
        },
        "binds": {
            "slo": "tbt p99 < 0.1 s",
            "resource": "kv_blocks",
            "detail": "KV blocks peak at 97%",
        },
        "time_by_source": {"imported": 0.71, "interpolated": 0.22, "analytical": 0.07},
    }


def workload() -> dict[str, Any]:
    return {
        "name": "chat.csv",
        "path": "spec/traces/chat.csv",
        "format": "servecast",
        "num_requests": 2000,
        "num_rejected": 2,
        "rejected": {"output_tokens is 0: the request failed or was cut off": 2},
        "span_s": 154.2,
        "rate_per_s": TRACE_RATE_PER_S,
        "gap_cv": 1.49,
        "dispersion": 2.38,
        "dispersion_window_s": 0.77,
        "prompt_tokens": {
            "mean": 1333.6,
            "p50": 1023.5,
            "p90": 2751.0,
            "p99": 5182.0,
            "max": 7792,
            "total": 2667198,
        },
        "output_tokens": {
            "mean": 191.4,
            "p50": 130.0,
            "p90": 409.1,
            "p99": 974.1,
            "max": 2750,
            "total": 382760,
        },
        "prompt_per_output": 6.97,
        "prompt_per_output_p50": 7.98,
    }


def example_result() -> dict[str, Any]:
    """27 configurations on three GPUs, and seven that cannot serve."""
    ranked = [
        configuration(sku, tp, num_seqs, tokens)
        for sku in PRICES
        for tp in (1, 2, 4)
        for num_seqs in (64, 256)
        for tokens in (512, 2048, 8192)
    ]
    ranked.sort(key=lambda row: -row["qps_per_usd_hour"])
    best = {**ranked[0], "at_trace_rate": {"metrics": metrics(0.7, 10.0)}}
    reason = "does not fit: weights 16.1 GB leave no room for a KV cache in 90% of 24 GB"
    infeasible = [
        {"sku": "a30", "tp": 1, "pp": 1, "max_num_seqs": None, "max_batched_tokens": None,
         "reason": reason},
        *(
            {"sku": "l40s", "tp": 8, "pp": 1, "max_num_seqs": seqs, "max_batched_tokens": tokens,
             "reason": "even when idle: tbt p99 < 0.1 s comes to 0.14 s (1.4 times the target)"}
            for seqs in (64, 256)
            for tokens in (512, 2048, 8192)
        ),
    ]  # fmt: skip
    return {
        "schema_version": 1,
        "best": best,
        "ranked": ranked,
        "infeasible": infeasible,
        "workload": workload(),
        "question": {
            "confidence": 0.9,
            "model": "llama-3.1-8b",
            "source": "meta-llama/Llama-3.1-8B",
            "slos": ["ttft p90 < 2 s", "tbt p99 < 0.1 s"],
            "axes": {"skus": list(PRICES), "tp": [1, 2, 4, 8], "pp": [1]},
            "max_gpus": 16,
            "seed": 0,
        },
        "provenance": {
            "operator_times": {
                sku: {"package": "aiconfigurator-core", "version": "0.12.0", "backend": "vllm"}
                for sku in PRICES
            },
            "notes": ["l40s: all-reduce beyond 4 GPUs is extrapolated"],
            "servecast_version": "0.1.0",
            "command": ["servecast", "compile-and-search", "spec/llama.llm", "--trace",
                        "spec/traces/chat.csv", "--slo", "tbt p99 < 0.1 s"],
        },
        "elapsed_s": 12.3,
    }  # fmt: skip
