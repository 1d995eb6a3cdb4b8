"""The page's structure, parsed: what a reader finds in it, and what can never get into it."""

from __future__ import annotations

import copy
import re
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from servecast.compiler.errors import UserError
from servecast.simulator.report.figures import pareto_charts
from servecast.simulator.report.render import render
from servecast.simulator.report.view import MAX_ROWS, STATISTICS

MAX_PAGE_BYTES = 3_000_000
LIBRARY = files("servecast.simulator.report").joinpath("d3.min.js").read_text(encoding="utf-8")
VOID = {"meta", "link", "input", "br", "hr", "img"}
Result = dict[str, Any]


class Page(HTMLParser):
    """Counts elements, gathers ids and text, and notices tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, css_class: str | None = None) -> int:
        return sum(
            name == tag and (css_class is None or css_class in (attrs.get("class") or "").split())
            for name, attrs in self.elements
        )

    def ids(self) -> Counter[str | None]:
        return Counter(attrs["id"] for _, attrs in self.elements if "id" in attrs)


def test_the_first_heading_is_the_recommendation_with_its_price(result: Result) -> None:
    html = render(result)
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", html, re.DOTALL)
    assert heading is not None
    assert heading[1] == (
        "Serve llama-3.1-8b at 13.0 requests per second on 2 × h100-sxm for $5.98 an hour."
    )


def test_the_page_nests_and_names_each_element_once(result: Result) -> None:
    page = Page(render(result))
    assert page.open == []
    assert max(page.ids().values()) == 1


def test_each_configuration_is_a_row_and_a_mark_in_each_chart(result: Result) -> None:
    page = Page(render(result))
    assert sum(str(name).startswith("r") and str(name)[1:].isdigit() for name in page.ids()) == 54
    assert page.count("svg", "scatter") == 3
    assert page.count("g", "point") == 3 * 54
    assert page.count("g", "best") == 3


def test_every_chart_and_every_scrolling_region_has_a_name(result: Result) -> None:
    for tag, attrs in Page(render(result)).elements:
        if attrs.get("role") in ("img", "region"):
            assert attrs.get("aria-label"), tag


def test_targets_are_compared_at_capacity_and_at_the_traces_rate(result: Result) -> None:
    text = Page(render(result)).text
    assert "Time to first token (TTFT) p90 2.00 s 1.39 s 69% of the limit 1.05 s 52%" in text


def test_what_the_prediction_rests_on_is_said_beside_the_price(result: Result) -> None:
    text = Page(render(result)).text
    assert (
        "Of the predicted time 71% is of kernels measured at that very shape, 22% lies between"
        in text
    )


@pytest.mark.parametrize(("confidence", "said"), [(0.9, "90%"), (0.99, "99%")])
def test_configurations_that_cannot_be_told_apart_are_marked(
    result: Result, confidence: float, said: str
) -> None:
    for row in result["ranked"]:
        row["tied_with_best"] = row in result["ranked"][:2]
    result["question"]["confidence"] = confidence
    text = Page(render(result)).text
    assert f"1 other configuration is as good per dollar at {said} confidence" in text
    assert f"= are not told apart from the first at {said} confidence" in text
    assert " 2 = h100-sxm" in text
    assert " 3 = " not in text


def test_the_capacity_has_an_interval_in_words_in_the_table_and_in_the_charts(
    result: Result,
) -> None:
    for row in (result["best"], *result["ranked"]):
        row["qps_interval"] = None
    for row in (result["best"], result["ranked"][0]):
        row["qps_interval"] = [19.0, 21.5]
    page = Page(render(result))
    assert "Like workloads have capacities of 19.0 to 21.5 requests per second." in page.text
    assert "20.0 (19.0 to 21.5)" in page.text
    assert page.count("path", "bar") == 2
    assert "was not drawn again" not in page.text
    result["ranked"][0]["qps_draws"] = None
    text = Page(render(result)).text
    assert "20.0 (within 19.0 to 21.5)" in text
    assert "A capacity “within” an interval was not drawn again" in text


def test_refusals_of_one_reason_are_one_line_with_their_number(result: Result) -> None:
    text = Page(render(result)).text
    assert "l40s, TP 8, PP 1 6 even when idle: tbt p99 < 0.1 s comes to 0.14 s" in text


def test_the_command_is_ready_for_a_shell(result: Result) -> None:
    text = Page(render(result)).text
    assert "--trace spec/traces/chat.csv --slo 'tbt p99 < 0.1 s'" in text
    assert "--max-num-seqs 256" in text


def test_the_memory_of_a_gpu_is_shown_whole(result: Result) -> None:
    text = Page(render(result)).text
    assert "KV cache 41.0 GiB weights 15.0 GiB activations 2.00 GiB cuda context 477 MiB" in text
    assert "not used 21.6 GiB" in text


def test_rejected_rows_of_the_trace_are_told(result: Result) -> None:
    assert "2 rows of the trace are no request: 2 × output_tokens is 0" in Page(render(result)).text


def test_without_an_answer_the_page_says_why(result: Result) -> None:
    result.update(best=None, ranked=[])
    text = Page(render(result)).text
    assert "No configuration serves llama-3.1-8b within ttft p90 < 2 s and tbt p99 < 0.1 s:" in text
    assert "Ranking" not in text
    assert "Why not the others" in text


def test_absent_figures_are_a_dash_and_never_zero(result: Result) -> None:
    best = result["best"]
    best["mfu"] = None
    for row in (best, result["ranked"][0]):
        row["metrics"]["ttft_s"] = dict.fromkeys(STATISTICS)
    page = Page(render(result))
    assert page.count("g", "point") == 53 + 54 + 53
    assert "– TTFT p90 at capacity" in page.text
    assert "– model FLOPs utilisation" in page.text


def test_nothing_is_loaded_from_anywhere(result: Result) -> None:
    html = render(result)
    assert "default-src 'none'" in html
    for _, attrs in Page(html).elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attrs.get(name) or "data:,").startswith("data:")
    # The library holds what the policy above forbids it to do.
    own = html.replace(LIBRARY, "").replace("url(#", "")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", own)


def test_the_chart_library_is_the_released_one() -> None:
    """d3 7.9.0's ``dist/d3.min.js`` (ISC licence), as the package registry of JavaScript has it."""
    assert LIBRARY.startswith("// https://d3js.org v7.9.0 Copyright 2010-2023 Mike Bostock")
    digest = "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539"
    assert sha256(LIBRARY.encode()).hexdigest() == digest


def test_text_from_files_stays_text(result: Result) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    clean = Counter(tag for tag, _ in Page(render(result)).elements)
    result["question"]["model"] = attack
    result["workload"]["name"] = attack
    result["provenance"]["notes"] = [attack]
    result["provenance"][attack] = attack
    result["infeasible"][0]["reason"] = attack
    for row in (result["best"], *result["ranked"]):
        row["sku"] = attack
        row["binds"]["slo"] = attack
    dirty = Counter(tag for tag, _ in Page(render(result)).elements)
    assert (dirty["script"], dirty["img"]) == (clean["script"], 0)


def test_a_large_search_stays_within_three_megabytes_and_says_what_it_leaves_out(
    result: Result,
) -> None:
    result["ranked"] = [copy.deepcopy(row) for row in result["ranked"] for _ in range(100)]
    html = render(result)
    assert len(html.encode()) < MAX_PAGE_BYTES
    text = Page(html).text
    assert "5,400 configurations keep every target" in text
    assert f"The first {MAX_ROWS:,} are shown; the result file has all of them." in text


def test_equal_results_give_equal_bytes(result: Result) -> None:
    assert render(result) == render(copy.deepcopy(result))


def without(result: Result, *path: str | int) -> Result:
    inner: Any = result
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return result


BAD = [
    (("schema_version",), "r.json: is not a search result; see docs/results.md"),
    (("ranked",), "r.json: ranked is missing; see docs/results.md"),
    (("ranked", 3, "qps"), r"r.json: ranked\[3\]: qps is None, not a number"),
    (("ranked", 0, "metrics", "tbt_s"), r"r.json: ranked\[0\]: metrics: tbt_s is missing"),
    (("best", "sku"), "r.json: best: sku is missing"),
    (("workload", "span_s"), "r.json: workload: span_s is None, not a number"),
    (("infeasible", 1, "reason"), "r.json: reason is missing"),
    (("question", "slos"), "r.json: question: slos is missing"),
]


def test_a_result_of_another_version_is_refused_with_both(result: Result) -> None:
    with pytest.raises(UserError, match="schema_version is 7; this Servecast reads 1"):
        render({**result, "schema_version": 7}, "r.json")


@pytest.mark.parametrize(("path", "message"), BAD)
def test_a_result_without_what_is_needed_is_refused_by_name(
    result: Result, path: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        render(without(result, *path), "r.json")


@pytest.mark.parametrize("other", [[], "x", None, {}, {"schema_version": 2}])
def test_what_is_no_result_is_refused(other: Any) -> None:
    with pytest.raises(UserError, match=r"r.json: (is not a search result|schema_version)"):
        render(other, "r.json")


def test_the_chart_of_two_latencies_prefers_less_of_both(result: Result) -> None:
    chart = next(chart for chart in pareto_charts(result) if chart.cloud.key == "latency")
    assert min(mark.x for mark in chart.marks) == min(x for x, _ in chart.frontier)
    assert [x for x, _ in chart.frontier] == sorted(x for x, _ in chart.frontier)


def test_figures_that_a_result_holds_are_drawn_with_their_numbers(full: Result) -> None:
    page = Page(render(full))
    names = set(page.ids())
    drawn = {"arrivals-histogram", "prompt-histogram", "output-histogram", "latency", "sensitivity"}
    assert {f"{name}-figure" for name in drawn | {"slo-cost-ttft-p90"}} <= names
    assert page.count("path", "band") == 2
    for text in ("Where time and money go", "decode weights 50%", "10% more time to the first"):
        assert text in page.text


def test_figures_that_a_result_does_not_hold_are_said_to_be_absent(result: Result) -> None:
    text = Page(render(result)).text
    assert "This result holds no prices at other targets" in text
    assert "This result holds no histogram of arrivals and lengths." in text


def test_the_price_is_split_into_what_the_trace_needs_and_headroom(result: Result) -> None:
    result["best"].update(qps=26.0, usd_per_hour=6.0)
    text = Page(render(result)).text
    assert "carries the trace $3.00 an hour headroom $3.00 an hour" in text


def test_an_axis_by_which_configurations_differ_is_a_column_and_in_the_marks(
    result: Result,
) -> None:
    for place, row in enumerate(result["ranked"]):
        row["precision"] = "fp8" if place % 2 else "bf16"
        row["router"] = "least_outstanding"
    page = Page(render(result))
    assert "tokens precision replicas" in page.text
    assert any(", precision fp8:" in str(attrs.get("data-tip")) for _, attrs in page.elements)


def apart(row: Result) -> Result:
    """The configuration with prefill on two GPUs of its own, of another kind."""
    part = {key: row[key] for key in ("tp", "pp", "max_num_seqs", "max_batched_tokens", "memory")}
    part |= {"kv_use": row["kv_use"], "busy": 0.5, "usd_per_hour": 3.58}
    prefill = part | {"sku": "a100-sxm-80gb", "replicas": 2, "gpus": 2}
    decode = part | {"sku": "h100-sxm", "replicas": 1, "gpus": 1}
    return row | {
        "sku": "a100-sxm-80gb + h100-sxm",
        "mode": "disaggregated",
        "gpus": 3,
        "replicas": 3,
        "prefill": prefill,
        "decode": decode,
    }


def test_prefill_and_decode_apart_are_told_role_by_role(result: Result) -> None:
    result["ranked"] = [row | {"mode": "aggregated"} for row in result["ranked"]]
    result["best"] = apart(result["best"])
    result["ranked"][0] = apart(result["ranked"][0])
    text = Page(render(result)).text
    assert "on 2 × a100-sxm-80gb + 1 × h100-sxm for $" in text
    assert "Prefill on 2 replicas of 1 GPU (TP 1, PP 1)" in text
    assert "; decode on 1 replica of 1 GPU" in text
    assert "prefill 2 × a100-sxm-80gb TP 1, PP 1; decode 1 × h100-sxm TP 1, PP 1" in text
    assert "The fullest stage of the decode role" in text
    assert "# prefill vllm serve llama-3.1-8b" in " ".join(text.split())
    assert "Batch settings of" not in text
