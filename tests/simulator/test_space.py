"""The space of configurations: all of it is placed or refused, and every refusal says why."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from servecast.compiler.catalog import compile_text, shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.load import load_spec
from servecast.compiler.service import Service
from servecast.simulator.cli import cli
from servecast.simulator.search.dry_run import space_json
from servecast.simulator.search.market import Market, priced
from servecast.simulator.search.precision import at_precision
from servecast.simulator.search.question import DEFAULT_PP, Question, axes_of
from servecast.simulator.search.servable import servable
from servecast.simulator.search.space import Axes, Space, enumerate_space
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

SPEC = Path(__file__).resolve().parents[2] / "spec" / "llama.llm"


def space(axes: Axes, model: str = "llama-3.1-70b", max_gpus: int = 16) -> Space:
    return enumerate_space(load_spec(SPEC).model(model), axes, shipped_skus(), max_gpus)


def test_every_combination_is_either_placed_or_refused() -> None:
    axes = Axes(("h100-sxm", "l40s"), (1, 2, 4, 8), (1, 2), (64, 256), (512, 2048))
    found = space(axes)
    settings = len(axes.max_num_seqs) * len(axes.max_batched_tokens)
    refused = sum(settings if miss.max_num_seqs is None else 1 for miss in found.infeasible)
    assert len(found) + refused == len(axes)
    assert all(miss.reason for miss in found.infeasible)


def test_a_model_too_large_says_by_how_much() -> None:
    found = space(Axes(("h100-sxm",), (1,), (1,), (64,), (512,)))
    assert len(found) == 0
    assert "does not fit: weights 141.1 GB" in found.infeasible[0].reason
    assert "short by" in found.infeasible[0].reason


def test_more_gpus_than_the_limit_are_refused() -> None:
    found = space(Axes(("h100-sxm",), (8,), (2,), (64,), (512,)), max_gpus=8)
    assert found.infeasible[0].reason == "needs 16 GPUs, and the limit is 8"


def test_tensor_parallelism_stays_within_a_node() -> None:
    found = space(Axes(("h100-sxm",), (16,), (1,), (64,), (512,)))
    assert found.infeasible[0].reason == "tp=16 spans nodes: h100-sxm has 8 GPUs a node"


def test_a_degree_that_does_not_divide_names_the_ones_that_do() -> None:
    found = space(Axes(("h100-sxm",), (3,), (1,), (64,), (512,)))
    assert "1, 2, 4, 8" in found.infeasible[0].reason


def test_a_token_budget_below_the_batch_limit_is_refused() -> None:
    found = space(Axes(("h100-sxm",), (4,), (1,), (256,), (128,)))
    assert found.infeasible[0].reason == "a token budget below the batch limit: 128 < 256"


def test_an_unknown_sku_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown SKU 'h100-smx' \(did you mean 'h100-sxm'\?\)"):
        space(Axes(("h100-smx",), (1,), (1,), (64,), (512,)))


def test_a_spec_may_declare_its_own_gpu() -> None:
    own = compile_text(
        'sku "mine" { memory 24 GB  bandwidth 1 TB/s  peak bf16 100 TFLOP/s  node 1 linked pcie 32 GB/s\n'
        'between nodes 10 GB/s  power idle 20 W  peak 300 W  price 0.5 USD/h source "invented" }',
        "mine.llm",
    )
    axes = Axes(("mine",), (1,), (1,), (64,), (512,))
    found = enumerate_space(load_spec(SPEC).model(), axes, own.skus, 1)
    assert len(found) == 1


def test_the_command_line_overrides_the_service_and_nothing_is_searched_twice() -> None:
    service = Service("chat", skus=("h100-sxm",), tp=(1, 2), max_num_seqs=(64,))
    axes = axes_of(service, Service("command line", tp=(4, 4, 1)), ("l40s",))
    assert (axes.skus, axes.tp, axes.max_num_seqs) == (("h100-sxm",), (4, 1), (64,))
    assert axes.pp == DEFAULT_PP


def test_a_window_frees_cache_for_requests_longer_than_it() -> None:
    gemma = load_spec(SPEC.with_name("gemma3.llm")).model()
    axes = Axes(("h100-sxm",), (2,), (1,), (64,), (2048,))

    def blocks(sequence_tokens: int | None) -> int:
        found = enumerate_space(gemma, axes, shipped_skus(), 16, sequence_tokens)
        return found.placements[0].candidates[0].limits.kv_blocks

    assert blocks(None) == blocks(512) < blocks(4096) < blocks(32768)


def test_a_service_block_declares_every_axis_and_the_objective() -> None:
    text = """
service "s" {
    search ep 1, 8  dp 2  precision fp8, declared
    search policy vllm_v1  router round_robin, "least_outstanding"  objective cost
}
"""
    service = compile_text(text, "s.llm").services["s"]
    axes = axes_of(service, Service("command line"), ("h100-sxm",))
    assert (axes.ep, axes.dp, axes.precisions) == ((1, 8), (2,), ("fp8", "declared"))
    assert axes.routers == ("round_robin", "least_outstanding")
    assert service.objective == "cost"


def test_experts_are_dealt_only_where_there_are_some() -> None:
    axes = Axes(("h100-sxm",), (2,), (1,), (64,), (512,), ep=(1, 2))
    dense = space(axes)
    assert len(dense.placements) == 1
    assert "ep 2 needs experts" in dense.infeasible[0].reason
    mixtral = load_spec(SPEC.with_name("mixtral.llm")).model()
    sparse = enumerate_space(mixtral, axes, shipped_skus(), 16)
    assert [p.parallelism.ep for p in sparse.placements] == [1, 2]


def test_half_the_bits_are_half_the_weights_and_leave_more_cache() -> None:
    spec = load_spec(SPEC)
    axes = Axes(("h100-sxm",), (1,), (1,), (64,), (512,))
    bf16, fp8 = (
        enumerate_space(at_precision(spec, None, name), axes, shipped_skus(), 1)
        for name in ("bf16", "fp8-kv")
    )
    weights = [s.placements[0].candidates[0].memory.weight_bytes for s in (bf16, fp8)]
    blocks = [s.placements[0].candidates[0].limits.kv_blocks for s in (bf16, fp8)]
    assert 0.5 < weights[1] / weights[0] < 0.6  # embedding, head and norms stay
    assert blocks[1] > 2 * blocks[0]
    with pytest.raises(UserError, match=r"no precision 'fp7' \(did you mean 'fp8'\?\)"):
        at_precision(spec, None, "fp7")


def test_gpus_are_rented_by_the_node_where_that_is_so() -> None:
    h100 = shipped_skus()["h100-sxm"]
    whole = Market(max_gpus=16, whole_nodes=True)
    assert Market(16).gpus_paid(h100, replicas=3, gpus=2) == 6
    assert whole.gpus_paid(h100, replicas=3, gpus=2) == 8
    assert (
        whole.gpus_paid(h100, replicas=2, gpus=6) == 16
    )  # two of six do not share a node of eight
    assert whole.most_replicas(h100, gpus=6) == 2
    assert Market(16, {"h100-sxm": 3}).most_replicas(h100, gpus=2) == 1


def test_a_stock_too_small_for_one_replica_refuses_the_placement() -> None:
    axes = Axes(("h100-sxm",), (1, 2), (1,), (64,), (512,))
    asked = Question(
        {"declared": load_spec(SPEC).model()},
        shipped_skus(),
        axes,
        (),
        Market(16, {"h100-sxm": 1}),
        0,
    )
    found = asked.space(1000)
    assert [p.parallelism.tp for p in found.placements] == [1]
    assert found.infeasible[0].reason == "needs 2 GPUs, of 1 GPU in stock"
    assert found.infeasible[0].constraint == "the stock"


def test_a_price_replaces_the_list_s() -> None:
    assert priced(shipped_skus(), {"h100-sxm": 1.5})["h100-sxm"].usd_per_hour == 1.5
    with pytest.raises(UserError, match="--price: unknown SKU 'h10'"):
        priced(shipped_skus(), {"h10": 1.0})


def test_the_dry_run_counts_all_configurations_searched_or_refused() -> None:
    axes = Axes(("h100-sxm", "l40s"), (1, 16), (1,), (64, 256), (128, 512), routers=("random",))
    spec = load_spec(SPEC)
    asked = Question({"declared": spec.model()}, shipped_skus(), axes, (), Market(16), 0)
    found = space_json(asked, asked.space(1000), asked.pairings(1000))
    assert found["configurations"] == 16
    assert found["to_search"] + sum(found["refused"].values()) == 16
    assert found["refused"] == {"the node's size": 8, "the token budget": 2}


EVERY_DIMENSION = """
service "all" {
    slo ttft p75 < 1 s
    search skus h100-sxm, l40s  gpus <= 8
    search tp 1, 2  pp 1, 2  ep 1  dp 1  batch 64, 128  chunk 512, 2048
    search precision bf16, fp8  policy vllm_v1, "lightllm:wait_steps=20"
    search router round_robin, "least_outstanding:stale_s=1"  objective goodput
    search mode aggregated, disaggregated  prefill h100-sxm  decode l40s, h100-sxm
}
"""
SAID_INSTEAD = (
    *("--slo", "ttft p75 < 1 s", "--sku", "h100-sxm", "--sku", "l40s", "--gpus", "8"),
    *("--tp", "1,2", "--pp", "1,2", "--ep", "1", "--dp", "1"),
    *("--max-num-seqs", "64,128", "--max-num-batched-tokens", "512,2048"),
    *("--precision", "bf16", "--precision", "fp8", "--objective", "goodput"),
    *("--policy", "vllm_v1", "--policy", "lightllm:wait_steps=20"),
    *("--router", "round_robin", "--router", "least_outstanding:stale_s=1"),
    *("--mode", "aggregated", "--mode", "disaggregated"),
    *("--prefill-sku", "h100-sxm", "--decode-sku", "l40s", "--decode-sku", "h100-sxm"),
)


def dry_run(spec: Path, *options: str) -> Result:
    trace = str(SPEC.parent / "traces" / "chat.csv")
    asked = ("compile-and-search", str(spec), "--trace", trace, "--dry-run", *options)
    return CliRunner().invoke(cli, asked)


def test_a_service_block_and_the_command_line_declare_the_same_space(tmp_path: Path) -> None:
    """Every dimension; policies with two stages or more are refused where they want one."""
    declared = tmp_path / "declared.llm"
    declared.write_text(SPEC.read_text() + EVERY_DIMENSION)
    spaces = [
        json.loads(dry_run(spec, *options, "--json").stdout)
        for spec, options in ((declared, ("--service", "all")), (SPEC, SAID_INSTEAD))
    ]
    assert spaces[0] == spaces[1]
    (space, _) = spaces
    aggregated = 2 * 2 * 2 * 2 * 2 * 2 * 2 * 2  # SKUs, tp, pp, batches, chunks, precisions, rules
    pairs = (1 * 4) * (2 * 4) * 2 * 2 * 2  # each role's SKUs and degrees; precisions, rules
    assert space["configurations"] == aggregated + pairs
    assert space["to_search"] + sum(space["refused"].values()) == space["configurations"]
    assert space["refused"]["the policy"] > 0


def test_the_dry_run_shows_every_axis_with_its_size_and_what_is_found(tmp_path: Path) -> None:
    shown = dry_run(SPEC, *SAID_INSTEAD, "--stock", "l40s=4", "--whole-nodes").stdout
    assert "prefill_skus        h100-sxm" in shown
    assert "replicas            found: what the trace needs, of 8 GPUs at most" in shown
    assert "prefill_skus" not in dry_run(SPEC).stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prefill-sku", "l40s"), "are GPUs of roles apart; add --mode disaggregated"),
        (("--weight", "1", "--weight", "2"), "--weight: 2 of them for 1 traces"),
        (("--trace", str(SPEC.parent / "traces" / "chat.csv"), "--best-only"), "may be the best of none"),
    ],
)  # fmt: skip
def test_what_would_change_nothing_is_refused_and_not_ignored(
    options: tuple[str, ...], says: str
) -> None:
    done = dry_run(SPEC, *options)
    assert done.exit_code == 2
    assert says in done.stderr


def test_the_dry_run_says_what_is_searched_under_each_of_several_traces(tmp_path: Path) -> None:
    """The prompts of the second are longer than what any batch of LightLLM takes whole."""
    trace = tmp_path / "long.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,900,5\n1,900,5\n")
    asked = ("--trace", str(trace), "--sku", "h100-sxm", "--tp", "1", "--max-num-seqs", "64")
    asked += ("--max-num-batched-tokens", "512,2048", "--policy", "lightllm")
    shown = dry_run(SPEC, *asked).stdout
    assert "under chat.csv: " in shown
    assert "under long.csv: " in shown
    both = json.loads(dry_run(SPEC, *asked, "--json").stdout)["traces"]
    assert [each["name"] for each in both] == ["chat.csv", "long.csv"]


def test_a_policy_that_cannot_serve_the_trace_is_refused_and_the_others_are_searched() -> None:
    """LightLLM's wants one stage; neither class keeps the prefixes that these prompts share."""
    axes = Axes(
        ("h100-sxm",), (1,), (1, 2), (64,), (512,), policies=("vllm_v1", "lightllm", "orca")
    )
    found = space(axes, "llama-3.1-8b", 2)
    hashes = PrefixBlocks(16, np.array([0, 1, 2]), np.array([7, 7]))
    plain = Workload("plain", np.zeros(2), np.full(2, 32), np.full(2, 8))
    sharing = dataclasses.replace(plain, name="sharing", prefix=hashes)

    def policies(kept: Space) -> dict[int, set[str]]:
        return {p.parallelism.pp: {c.policy for c in p.candidates} for p in kept.placements}

    every = {"vllm_v1", "lightllm", "orca"}
    assert policies(servable(found, plain)) == {1: every, 2: every - {"lightllm"}}
    kept = servable(found, sharing)
    assert policies(kept) == {1: {"vllm_v1"}, 2: {"vllm_v1"}}
    refused = [miss for miss in kept.infeasible if miss.constraint == "the policy"]
    assert len(refused) == 4
    assert all(miss.max_num_seqs is None for miss in refused)
    assert "sharing: policy 'orca' keeps no prefixes" in refused[1].reason
