"""The main job as a user runs it: the installed command, in a process of its own, on real traces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("compile-and-search"))
CHAT = "spec/traces/chat.csv"
SMALL = ("--tp", "1,2", "--max-num-seqs", "128", "--max-num-batched-tokens", "2048", "--jobs", "1")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*arguments: str, spec: str = "spec/llama.llm", **environment: str) -> Ran:
    command = [COMMAND, spec, *arguments]
    variables = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, env=variables
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One profile store for the file, so that the public data are imported once."""
    return str(tmp_path_factory.mktemp("store") / "profiles.duckdb")


def answer(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert isinstance(found, dict)
    return found


CONFIGURATION_KEYS = {
    "sku", "tp", "pp", "replicas", "policy", "max_num_seqs", "max_batched_tokens", "qps",
    "qps_per_usd_hour", "usd_per_million_output_tokens", "metrics", "mfu", "memory",
}  # fmt: skip


@pytest.mark.slow
def test_the_azure_conversation_trace_gets_a_ranked_answer(shared_data: Path, store: str) -> None:
    trace = str(shared_data / "traces" / "azure-2023-conv.csv")
    found = answer("--trace", trace, "--requests", "2000", "--store", store, *SMALL)
    assert found["workload"]["num_requests"] == 2000
    assert {row["sku"] for row in found["ranked"]} == {"h100-sxm", "a100-sxm-80gb"}
    per_dollar = [row["qps_per_usd_hour"] for row in found["ranked"]]
    assert per_dollar == sorted(per_dollar, reverse=True)
    for row in found["ranked"]:
        assert row.keys() >= CONFIGURATION_KEYS
        assert row["qps"] > 0.9 * found["workload"]["rate_per_s"]  # resampled, not the trace itself
        assert row["metrics"]["ttft_s"]["p90"] <= 2.0
        assert row["metrics"]["tbt_s"]["p99"] <= 0.2
        assert row["metrics"]["queue_delay_s"]["p99"] <= 5.0
        assert 0 < row["mfu"] < 1
        assert sum(row["time_by_source"].values()) == pytest.approx(1)
        assert row["time_by_source"]["imported"] + row["time_by_source"]["interpolated"] > 0.5
    best = dict(found["best"])
    assert best.pop("at_trace_rate")["metrics"]["ttft_s"]["p90"] <= 2.0
    low_s, high_s = best.pop("intervals")["ttft_s"]["p90"]
    assert low_s <= best["metrics"]["ttft_s"]["p90"] <= high_s
    assert best == found["ranked"][0]


@pytest.mark.slow
def test_the_large_model_needs_more_gpus_and_says_what_does_not_fit(
    shared_data: Path, store: str
) -> None:
    trace = str(shared_data / "traces" / "azure-2023-code.csv")
    model = ("--model", "llama-3.1-70b", "--sku", "h100-sxm", "--tp", "1,4,8")
    limits = ("--max-num-seqs", "128", "--max-num-batched-tokens", "2048", "--requests", "2000")
    found = answer("--trace", trace, "--store", store, *model, *limits)
    assert {row["tp"] for row in found["ranked"]} <= {4, 8}
    too_large = [miss for miss in found["infeasible"] if miss["tp"] == 1]
    assert "does not fit: weights 141.1 GB" in too_large[0]["reason"]


@pytest.mark.parametrize(
    ("sku", "model"), [("a100-sxm-80gb", "llama-3.1-8b"), ("h100-sxm", "llama-3.1-70b")]
)
def test_vidur_s_profiles_can_be_the_only_source(
    sku: str, model: str, shared_data: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "vidur.duckdb")
    profiles = str(shared_data / "profiles" / "vidur")
    servecast = str(Path(COMMAND).with_name("servecast"))
    imported = [servecast, "store", "import", "vidur", profiles, "--store", store]
    subprocess.run(imported, check=True, capture_output=True)
    limits = ("--max-num-seqs", "64", "--max-num-batched-tokens", "512", "--jobs", "1")
    trace = ("--trace", str(shared_data / "traces" / "azure-2023-conv.csv"), "--requests", "500")
    asked = ("--sku", sku, "--model", model, "--tp", "4", "--source", "vidur", "--store", store)
    shares = answer(*trace, *asked, *limits, "--slo", "tbt p99 < 1 s")["best"]["time_by_source"]
    assert shares["measured"] == 0
    assert shares["imported"] + shares["interpolated"] > 0.5


def test_workers_change_nothing_in_the_answer(store: str) -> None:
    settings = ("--trace", CHAT, "--store", store, "--tp", "1", "--sku", "h100-sxm")
    limits = ("--max-num-seqs", "64,128", "--max-num-batched-tokens", "512,2048")
    one, two = (answer(*settings, *limits, "--jobs", jobs) for jobs in ("1", "2"))
    for found in (one, two):
        found.pop("elapsed_s")
        found["provenance"].pop("command")
    assert one == two


def test_the_result_and_its_report_are_saved(store: str, tmp_path: Path) -> None:
    done = run("--trace", CHAT, "--store", store, *SMALL, "--out", str(tmp_path / "out"))
    assert done.code == 0
    assert "llama-3.1-8b" in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "report.html"}
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["best"]["sku"] in done.out


def test_any_two_configurations_are_explained_under_every_trace(store: str, tmp_path: Path) -> None:
    """With prefill and decode together and apart; the command of the search is read again."""
    modes = ("--mode", "aggregated", "--mode", "disaggregated", "--sku", "h100-sxm", "--tp", "1")
    limits = ("--max-num-seqs", "128", "--max-num-batched-tokens", "2048", "--jobs", "1")
    traces = ("--trace", CHAT, "--trace", CHAT, "--weight", "2", "--weight", "1")
    done = run(*traces, "--store", store, *modes, *limits, "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    servecast = str(Path(COMMAND).with_name("servecast"))
    command = [servecast, "explain", str(tmp_path / "results.json"), "1", "2", "--json"]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    told = json.loads(said.stdout)
    assert told["unexplained"] is None
    assert [each["rank"] for each in told["explanations"]] == [1, 1, 2, 2]
    assert all(sum(each["gpu_time"].values()) > 0.99 for each in told["explanations"])
    assert {each["axes"] for each in told["changes"]} <= {
        "mode aggregated→disaggregated",
        "mode disaggregated→aggregated",
    }


def test_simulate_reproduces_the_best_under_the_trace(store: str) -> None:
    settings = ("--trace", CHAT, "--store", store, "--sku", "h100-sxm", "--tp", "1")
    best = answer(*settings, "--max-num-seqs", "64,128", "--max-num-batched-tokens", "512,2048")[
        "best"
    ]
    servecast = str(Path(COMMAND).with_name("servecast"))
    limits = ("--max-num-seqs", str(best["max_num_seqs"]))
    limits += ("--max-num-batched-tokens", str(best["max_batched_tokens"]))
    routing = ("--replicas", str(best["replicas"]), "--router", "least_outstanding")
    command = [servecast, "simulate", "spec/llama.llm", *settings, *limits, *routing, "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (
        json.loads(done.stdout)["metrics"]["ttft_s"] == best["at_trace_rate"]["metrics"]["ttft_s"]
    )


def test_ctrl_c_shows_the_best_so_far_and_resume_ends_as_if_it_had_not_come(
    store: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("--trace", CHAT, "--store", store, "--tp", "1,2", "--jobs", "2")
    arguments = (*asked, "--out", str(out))

    def heed_interrupts() -> None:  # a shell's background job, as this may be, ignores them
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        [COMMAND, "spec/llama.llm", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    ) as running:
        while running.poll() is None and not (out / "search.jsonl").exists():
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        said, errors = running.communicate()
    assert running.returncode == 130
    assert "--resume goes on from here" in errors
    assert "Traceback" not in errors
    stopped = json.loads((out / "results.json").read_text())
    assert not stopped["complete"]
    assert stopped["best"] is None or stopped["best"]["sku"] in said
    done = run(*arguments, "--resume")
    assert done.code == 0
    assert not (out / "search.jsonl").exists()
    resumed, whole = json.loads((out / "results.json").read_text()), answer(*asked)
    for each in (resumed, whole):
        each.pop("elapsed_s")
        each["provenance"].pop("command")
    assert resumed == whole


def test_targets_that_nothing_meets_end_with_3_and_still_say_why(store: str) -> None:
    done = run("--trace", CHAT, "--store", store, *SMALL, "--slo", "tbt p50 < 1 ms", "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["best"] is None
    assert "tbt p50 < 0.001 s comes to" in found["infeasible"][0]["reason"]


HOLD = """
import sys
from servecast.estimator.store import Store
with Store.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_two_searches_side_by_side_wait_for_a_store_that_a_third_process_keeps(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.duckdb"
    holding = [sys.executable, "-c", HOLD, str(path)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(holding, stdin=subprocess.PIPE, **piped) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        asked = ["--trace", CHAT, "--store", str(path), "--sku", "a30", *SMALL]
        asked += ["--json", "--quiet"]
        searches = [
            subprocess.Popen(
                [COMMAND, "spec/llama.llm", *asked, "--out", str(tmp_path / out)],
                cwd=REPOSITORY,
                **piped,
            )
            for out in ("one", "other")
        ]
        waiting = f"s.duckdb: in use by process {holder.pid}; waiting for it (Ctrl-C gives up"
        for search in searches:
            assert search.stderr is not None
            assert waiting in search.stderr.readline()
        holder.communicate()  # lets go of it
        one, other = (search.communicate(timeout=200)[0] for search in searches)
    assert [search.returncode for search in searches] == [0, 0]
    assert json.loads(one)["best"]["qps"] == json.loads(other)["best"]["qps"]


def test_without_measurements_every_time_is_analytical_and_said_to_be(tmp_path: Path) -> None:
    found = answer("--trace", CHAT, "--store", str(tmp_path / "s.duckdb"), "--sku", "a30", *SMALL)
    assert found["best"]["time_by_source"]["analytical"] == pytest.approx(1)
    assert any("a30: nothing measured" in note for note in found["provenance"]["notes"])


WRONG_SPECS = {
    "typo": ("let heads = 32, kv_heads = 8", "let heads = 32, kv_head = 8", 2, "did you mean"),
    "unit": ("ttft p90 < 2 s", "ttft p90 < 2 GB", 2, "GB"),
    "width": (" ffn -> hidden", " 2*ffn -> hidden", 2, "line"),
}


@pytest.mark.parametrize("name", WRONG_SPECS)
def test_a_wrong_spec_is_one_clear_error_at_its_place(
    name: str, store: str, tmp_path: Path
) -> None:
    right, wrong, code, says = WRONG_SPECS[name]
    text = (REPOSITORY / "spec" / "llama.llm").read_text()
    assert right in text
    spec = tmp_path / "wrong.llm"
    spec.write_text(text.replace(right, wrong, 1))
    done = run("--trace", CHAT, "--store", store, spec=str(spec))
    assert done.code == code
    assert "wrong.llm:" in done.err
    assert "^" in done.err
    assert says in done.err
    assert "Traceback" not in done.err


WRONG_TRACES = {
    "a missing column": ("arrival_s,prompt_tokens\n0,5\n", "output_tokens"),
    "a negative length": ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,-5,5\n", ":3"),
    "a time that goes back": ("arrival_s,prompt_tokens,output_tokens\n5,5,5\n1,5,5\n", ":3"),
    "an empty trace": ("arrival_s,prompt_tokens,output_tokens\n", "no request"),
    "an empty file": ("", "empty"),
    "a request beyond the context": (
        "arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,200000,5\n",
        "131072",
    ),
}


@pytest.mark.parametrize("name", WRONG_TRACES)
def test_a_wrong_trace_is_one_clear_error(name: str, store: str, tmp_path: Path) -> None:
    text, says = WRONG_TRACES[name]
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    done = run("--trace", str(trace), "--store", store, "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "trace.csv" in done.err
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


WRONG_USAGE = {
    "model": (("--model", "llama-3.1-8c"), 2, "no model 'llama-3.1-8c' (did you mean"),
    "sku": (("--sku", "h100-smx"), 2, "unknown SKU 'h100-smx' (did you mean 'h100-sxm'?)"),
    "metric": (("--slo", "tftt p90 < 2 s"), 2, "did you mean"),
    "percentile": (("--slo", "ttft p101 < 2 s"), 2, "101"),
    "slo of a class": (("--slo", "class 1: ttft p90 < 2 s"), 2, "need each request's priority"),
    "slo unit": (("--slo", "ttft p90 < 2 GB"), 2, "GB"),
    "source": (("--source", "vidr"), 2, "no source 'vidr' (did you mean 'vidur'?)"),
    "service": (("--service", "chatt"), 2, "no service 'chatt' (did you mean"),
    "list": (("--tp", "1;2"), 2, "'1;2' is not a list of positive whole numbers"),
    "degree": (("--tp", "3"), 3, "1, 2, 4, 8"),
    "rate": (("--rate", "-1"), 2, "--rate"),
    "objective": (("--objective", "cots"), 2, "no objective 'cots' (did you mean 'cost'?)"),
    "precision": (("--precision", "fp9"), 2, "no precision 'fp9' (did you mean 'fp8'?)"),
    "price": (("--price", "h100-sxm=free"), 2, "is not a SKU with a figure above 0"),
    "stock": (("--stock", "h100=2"), 2, "--stock: unknown SKU 'h100'"),
    "weights": (("--weight", "1", "--trace", CHAT), 2, "--weight: 1 of them for 2 traces"),
    "resume": (("--resume", "--tp", "1"), 2, "search.jsonl: no search was stopped there"),
    "fits nowhere": (("--model", "llama-3.1-70b", "--tp", "1"), 3, "refused are 18 by memory"),
    "no trace": (("--trace", "nowhere.csv"), 2, "nowhere.csv"),
}


@pytest.mark.parametrize("name", WRONG_USAGE)
def test_wrong_usage_is_one_clear_error(name: str, store: str, tmp_path: Path) -> None:
    arguments, code, says = WRONG_USAGE[name]
    out = tmp_path / "out"
    done = run("--trace", CHAT, "--store", store, "--out", str(out), *arguments)
    assert done.code == code
    assert says in done.err
    assert "Traceback" not in done.err
    assert not out.exists()


@pytest.mark.parametrize("out", ["/proc/nowhere", "README.md/inside"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_search(out: str, store: str) -> None:
    done = run("--trace", "nowhere.csv", "--store", store, "--out", out)
    assert done.code == 2
    assert "cannot write the result there" in done.err


def test_a_store_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "profiles.duckdb"
    store.write_text("these are my notes")
    done = run("--trace", CHAT, "--store", str(store))
    assert done.code == 4
    assert "profiles.duckdb" in done.err
    assert store.read_text() == "these are my notes"


def test_without_a_place_for_the_store_one_sentence_says_what_to_do() -> None:
    done = run("--trace", CHAT, HOME="/proc/self", XDG_CACHE_HOME="/proc/nowhere")
    assert done.code == 4
    assert "name another place with --store" in done.err
    assert done.err.count("\n") == 1
