"""The space of configurations: all of it is placed or refused, and every refusal says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.compiler.catalog import compile_text, shipped_skus
from servecast.compiler.errors import UserError
from servecast.compiler.load import load_spec
from servecast.compiler.service import Service
from servecast.simulator.search.question import DEFAULT_PP, axes_of
from servecast.simulator.search.space import Axes, Space, enumerate_space

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
