"""Shipped specs: parameter counts, GPUs, services; and errors in the words a reader sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.compiler.catalog import compile_text, find_sku, parse_slo, shipped_skus
from servecast.compiler.errors import SpecError, UserError
from servecast.compiler.fmt import format_source
from servecast.compiler.load import read_text
from servecast.compiler.service import Slo

SPEC = Path(__file__).parents[2] / "spec"


def llama() -> str:
    return read_text(SPEC / "llama.llm")


def test_the_first_model_is_the_default() -> None:
    spec = compile_text(llama(), "llama.llm")
    assert spec.model().model == "llama-3.1-8b"
    assert spec.model("llama-3.1-70b").num_layers == 80


def test_an_unknown_model_is_suggested() -> None:
    spec = compile_text(llama(), "llama.llm")
    with pytest.raises(UserError, match=r"no model 'llama-3.1-7b' \(did you mean 'llama-3.1-70b'"):
        spec.model("llama-3.1-7b")


def test_the_service_says_what_to_search() -> None:
    service = compile_text(llama(), "llama.llm").services["chat"]
    assert service.slos == (Slo("ttft", 90.0, 2.0), Slo("tbt", 99.0, 0.2))
    assert service.skus == ("h100-sxm", "a100-sxm-80gb")
    assert (service.max_gpus, service.tp) == (16, (1, 2, 4, 8))
    assert service.max_num_seqs == (64, 128, 256)
    assert service.max_batched_tokens == (512, 2048, 8192)


def test_a_gpu_is_its_datasheet() -> None:
    sku = shipped_skus()["h100-sxm"]
    assert sku.peak("bf16") == pytest.approx(989.4e12)
    assert sku.bandwidth_bytes_per_s == pytest.approx(3.35e12)
    assert (sku.gpus_per_node, sku.link_kind) == (8, "nvlink")
    assert sku.peak("nvfp4") is None


@pytest.mark.parametrize("name", sorted(shipped_skus()))
def test_every_price_says_where_it_comes_from(name: str) -> None:
    sku = shipped_skus()[name]
    assert sku.usd_per_hour > 0
    assert "20" in sku.price_source


PRICES = """
sku "mine" {
    memory 24 GB  bandwidth 1 TB/s  peak bf16 100 TFLOP/s  node 1 linked pcie 32 GB/s
    between nodes 10 GB/s  power idle 20 W  peak 300 W
    price 3 USD/h source "list"  price spot 1 USD/h source "market"  price reserved 2 USD/h
}
"""


def test_a_gpu_may_have_prices_of_other_kinds() -> None:
    sku = compile_text(PRICES, "mine.llm").skus["mine"]
    assert (sku.usd_per_hour, sku.price_source) == (3, "list")
    assert [(p.kind, p.usd_per_hour, p.source) for p in sku.prices] == [
        ("spot", 1, "market"),
        ("reserved", 2, "as given in mine.llm"),
    ]


def test_each_kind_of_price_is_given_once_and_on_demand_always() -> None:
    with pytest.raises(SpecError, match=r"price spot is already given"):
        compile_text(PRICES.replace("reserved", "spot"), "mine.llm")
    spot_alone = PRICES.replace('price 3 USD/h source "list"', "")
    with pytest.raises(SpecError, match=r"'mine' does not give 'price'"):
        compile_text(spot_alone, "mine.llm")


def test_prices_are_formatted_as_they_are_written() -> None:
    assert 'price spot 1 USD/h source "market"' in format_source(PRICES, "mine.llm")


def test_a_specs_own_gpu_goes_before_the_shipped_one() -> None:
    text = read_text(SPEC / "skus.llm").replace("2.99 USD/h", "1.11 USD/h")
    assert find_sku(compile_text(text, "mine.llm"), "h100-sxm").usd_per_hour == 1.11
    assert find_sku(compile_text(llama(), "llama.llm"), "h100-sxm").usd_per_hour == 2.99
    with pytest.raises(UserError, match=r"unknown GPU 'h100' .*did you mean 'h"):
        find_sku(compile_text(llama(), "llama.llm"), "h100")


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft p90 < 2 s", Slo("ttft", 90.0, 2.0)),
        ("tbt p99.9 < 200 ms", Slo("tbt", 99.9, 0.2)),
        ("e2e mean < 30 s", Slo("e2e", None, 30.0)),
    ],
)
def test_a_latency_target_reads_as_it_is_said(text: str, slo: Slo) -> None:
    parsed = parse_slo(text)
    assert (parsed.metric, parsed.percentile) == (slo.metric, slo.percentile)
    assert parsed.limit_s == pytest.approx(slo.limit_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tftt p90 < 2 s", r"unknown metric 'tftt' \(did you mean 'ttft'\?\); known: ttft, tbt"),
        ("ttft p101 < 2 s", r"'p101' is no statistic; use p50"),
        ("ttft p90 < 2 GB", r"ttft cannot be in 'GB'; its units are s, ms, us"),
        ("ttft p90 2 s", r"unexpected '2'; expected '<' or '<='"),
        ("ttft p90 < 0 s", r"ttft must be positive"),
    ],
)
def test_a_wrong_latency_target_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_slo(text)


def broken(old: str, new: str) -> str:
    assert old in llama()
    return llama().replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "rms_norm  hidden",
            "rmsnorm  hidden",
            r"unknown operator or block 'rmsnorm' \(did you me",
        ),
        ("linear    hidden ->", "lnear hidden ->", r"unknown word 'lnear' \(did you mean 'lin"),
        ("split columns by kv_heads", "split columns by kv_head", r"did you mean 'kv_heads'\?"),
        (
            "swiglu   ffn",
            "swiglu    hidden",
            r":25:.*takes a row of 8,192.*line 24 puts out 28,672",
        ),
        ("weights  bf16", "weights bf61", r"unknown format 'bf61' \(did you mean 'bf16'"),
        ("heads*head -> hidden", "heads*head -> ffn", r"adds 14,336 .*line 20\) to 4,096"),
    ],
)
def test_a_fault_in_a_model_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        compile_text(broken(old, new), "llama.llm")


def test_an_error_shows_the_place_the_line_and_a_caret() -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(
            'model "m" {\n    context 10\n    let a = b1\n    embedding a -> a\n'
            "    repeat 2 { rms_norm a }\n}\n",
            "m.llm",
        )
    assert str(caught.value) == (
        "m.llm:3:13: unknown name 'b1'\n    3 |     let a = b1\n      |             ^^"
    )


def test_a_wrong_unit_names_the_right_ones() -> None:
    text = read_text(SPEC / "skus.llm").replace("79.1 GiB", "79.1 GB/s")
    with pytest.raises(SpecError, match=r"memory cannot be in 'GB/s'.*its units are MB, GB, TB"):
        compile_text(text, "skus.llm")
