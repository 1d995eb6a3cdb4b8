"""Prefill and decode apart on the command line: a link by hand, both pools' figures, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import InfeasibleError, UserError
from servecast.compiler.load import load_spec
from servecast.estimator.load import TableLoader
from servecast.simulator.cli import cli
from servecast.simulator.commands.simulate_answer import headline
from servecast.simulator.commands.simulate_job import save_simulation
from servecast.simulator.engine.prefix_path import prefix_blocks
from servecast.simulator.frames import frame
from servecast.simulator.simulate import Setup
from servecast.simulator.simulate_pools import (
    AskedLink,
    PoolsSetup,
    SimulatedPools,
    simulate_pools,
)
from servecast.simulator.traffic.workload import Workload

REPOSITORY = Path(__file__).resolve().parents[2]
PREFILL = Setup(load_spec(REPOSITORY / "spec" / "llama.llm").model("llama-3.1-8b"), "h100-sxm")
DECODE = replace(PREFILL, sku="l40s")
KV_BYTES_PER_TOKEN = 32 * 2 * 8 * 128 * 2  # layers, keys and values, heads, their width, bf16
SLOW = AskedLink(bytes_per_s=1e9, latency_s=0.005)
SENT_S = 1000 * KV_BYTES_PER_TOKEN / 1e9
BARE = """
sku "bare" {
    memory 80 GiB  bandwidth 3 TB/s
    peak bf16 900 TFLOP/s  peak fp32 60 TFLOP/s
    node 8 linked nvlink 450 GB/s
    between nodes 50 GB/s
    power idle 70 W  peak 700 W
    price 3 USD/h
}
"""  # no package has timings of it
TWO = Workload("two", np.array([1.0, 1.0]), np.array([1000, 1000]), np.array([3, 3]))


@pytest.fixture(scope="module")
def loader() -> TableLoader:
    """Physics alone: no package's timings are imported."""
    return TableLoader(None, sources=())


def run(
    loader: TableLoader, setup: PoolsSetup | None = None, workload: Workload = TWO
) -> SimulatedPools:
    setup = setup or PoolsSetup(PREFILL, DECODE, SLOW)
    return simulate_pools(setup, shipped_skus(), workload, loader)


def mixed(count: int = 40) -> Workload:
    index = np.arange(count)
    return Workload("mixed", 0.1 * index.astype(float), 100 + 7 * index, 1 + index % 5)


def test_each_prefill_replica_sends_over_a_link_of_its_own(loader: TableLoader) -> None:
    """1000 tokens of 131,072 bytes at 1 GB/s are 131.072 ms, and 5 ms until they are there."""
    apart = PoolsSetup(replace(PREFILL, replicas=2), DECODE, SLOW)
    assert run(loader, apart).run.transfer_s == pytest.approx([SENT_S + 0.005] * 2)
    shared = replace(apart, link=replace(SLOW, shared=True))
    both_s = [SENT_S + 0.005, 2 * SENT_S + 0.005]
    assert sorted(run(loader, shared).run.transfer_s) == pytest.approx(both_s)


def test_kv_that_leaves_in_parts_is_across_sooner(loader: TableLoader) -> None:
    """Both prompts are in one step, from 1 s to the first tokens: 31 of 32 parts of it hide transfer."""
    whole, parts = (
        run(loader, PoolsSetup(PREFILL, DECODE, replace(SLOW, layers=layers))).run
        for layers in (1, 32)
    )
    step_s = whole.prefill.first_token_s - 1
    assert whole.transfer_s - parts.transfer_s == pytest.approx(step_s * 31 / 32)


def test_without_a_word_the_link_is_the_slower_roles_network(loader: TableLoader) -> None:
    link = run(loader, PoolsSetup(PREFILL, DECODE)).summary["configuration"]["kv_link"]
    slower = min(shipped_skus()[name].network_bytes_per_s for name in ("h100-sxm", "l40s"))
    assert link["bytes_per_s"] == slower
    assert link["kv_bytes_per_token"] == KV_BYTES_PER_TOKEN


def test_the_summary_adds_up_over_both_roles(loader: TableLoader) -> None:
    setup = PoolsSetup(PREFILL, replace(DECODE, replicas=2, tp=2), SLOW)
    summary = run(loader, setup, mixed()).summary
    json.dumps(summary, allow_nan=False)
    skus, said = shipped_skus(), summary["configuration"]
    usd_per_hour = skus["h100-sxm"].usd_per_hour + 4 * skus["l40s"].usd_per_hour
    assert (said["gpus"], said["usd_per_hour"]) == (5, pytest.approx(usd_per_hour))
    assert said["decode"]["tp"] == 2
    assert summary["requests"]["finished"] == 40
    tokens = int(mixed().output_tokens.sum())
    cost = usd_per_hour * summary["duration_s"] / 3600 / tokens * 1e6
    assert summary["usd_per_million_output_tokens"] == pytest.approx(cost)
    parts = [summary["pools"][role]["energy"]["joules"] for role in ("prefill", "decode")]
    assert summary["energy"]["joules"] == pytest.approx(sum(parts))
    assert sum(summary["time_by_source"].values()) == pytest.approx(1)
    assert "1 prefill replica of h100-sxm (TP 1, PP 1), 2 decode replicas of l40s" in headline(
        summary
    )


def test_prefixes_are_found_in_the_prefill_pool_alone(loader: TableLoader) -> None:
    """Both prompts are the same 1000 tokens; the second comes when the first is done."""
    apart = replace(
        TWO, arrival_s=np.array([0.0, 60.0]), prefix=prefix_blocks([[7] * 1000] * 2, 16)
    )
    done = run(loader, workload=apart)
    pools = done.summary["pools"]
    assert pools["prefill"]["prefix_hit_rate"] == pytest.approx(992 / 2000)
    assert pools["decode"]["prefix_hit_rate"] is None
    assert done.run.transfer_s.tolist() == pytest.approx([SENT_S + 0.005] * 2)
    off = PoolsSetup(replace(PREFILL, prefix_caching=False), DECODE, SLOW)
    assert run(loader, off, apart).summary["pools"]["prefill"]["prefix_hit_rate"] is None


def test_a_decode_pool_that_is_sent_nothing_has_no_figures(loader: TableLoader) -> None:
    one_token = replace(TWO, output_tokens=np.array([1, 1]))
    summary = run(loader, workload=one_token).summary
    assert summary["pools"]["decode"] is None
    assert summary["transfer_s"] == dict.fromkeys(("p50", "p99", "mean", "max"))


def test_a_request_too_long_for_a_role_is_named_with_the_role(loader: TableLoader) -> None:
    long = replace(TWO, output_tokens=np.array([3, 9000]))
    setup = PoolsSetup(PREFILL, replace(DECODE, kv_blocks=100), SLOW)
    summary = run(loader, setup, long).summary
    assert summary["rejected"] == [
        {
            "request": "two: request 1",
            "pool": "decode",
            "kv_blocks": 625,  # 9999 tokens
            "reason": "needs more than the 100 KV blocks there are",
        }
    ]


def test_a_run_is_saved_whole(loader: TableLoader, tmp_path: Path) -> None:
    done = run(loader, workload=mixed())
    save_simulation(done, tmp_path)
    requests = duckdb.execute(f"SELECT * FROM '{tmp_path}/requests.parquet'").df()
    sent = requests.output_tokens > 1
    assert (requests.decode_replica >= 0).tolist() == sent.tolist()
    assert (requests.received_s >= requests.first_token_s)[sent].all()
    assert (requests.decode_scheduled_s >= requests.received_s)[sent].all()
    assert (requests.finish_s > requests.decode_scheduled_s)[sent].all()
    pools = duckdb.execute(
        f"SELECT pool, sum(decodes) FROM '{tmp_path}/steps.parquet' GROUP BY pool"
    )
    assert dict(pools.fetchall())["prefill"] == 0
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"prefill replica 0", "decode replica 0"}
    transfers = [event for event in events if event["name"] == "transfer" and event["ph"] == "b"]
    assert {event["id"] for event in transfers} == set(np.flatnonzero(sent))


def test_a_run_is_a_frame_of_its_requests(loader: TableLoader) -> None:
    table = frame(run(loader, workload=mixed()), "arrow")
    assert table.num_rows == 40
    assert {"decode_replica", "received_s"} <= set(table.column_names)


def test_the_command_line_says_each_role_and_the_link(tmp_path: Path) -> None:
    trace = tmp_path / "two.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n1,1000,3\n1,1000,3\n")
    spec = tmp_path / "bare.llm"
    spec.write_text((REPOSITORY / "spec" / "llama.llm").read_text() + BARE)
    said = [
        "--mode",
        "disaggregated",
        "--sku",
        "bare",
        "--max-num-seqs",
        "64",
        "--decode-max-num-seqs",
        "8",
    ]
    said += ["--prefill-replicas", "2", "--kv-bandwidth", "1", "--kv-latency", "5"]
    files = ["--trace", str(trace), "--store", str(tmp_path / "s.duckdb"), "--kv-shared-link"]
    told = CliRunner().invoke(cli, ["simulate", str(spec), *files, *said, "--json"])
    assert told.exit_code == 0, told.output
    summary = json.loads(told.output)
    setup = summary["configuration"]
    assert (setup["prefill"]["max_num_seqs"], setup["decode"]["max_num_seqs"]) == (64, 8)
    assert setup["prefill"]["replicas"] == 2
    assert summary["transfer_s"]["p50"] == pytest.approx(SENT_S + 0.005)
    assert summary["transfer_s"]["max"] == pytest.approx(2 * SENT_S + 0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decode-tp", "2"), "--decode-tp without --mode disaggregated: one pool has no roles"),
        (("--kv-latency", "2"), "--kv-latency without --mode disaggregated"),
        (("--replicas", "2"), "--replicas with --mode disaggregated: say --prefill-replicas"),
        (("--kv-tier", "name=h,gb=1,gb_per_s=9"), "--kv-tier with --mode disaggregated"),
        (("--speculation", "draft=1"), "mode disaggregated with speculation"),
        (("--kv-bandwidth", "inf"), "--kv-bandwidth must be a number, got inf"),
        (("--kv-latency", "nan"), "--kv-latency must be a number, got nan"),
        (("--policy", "sglang"), "mode disaggregated with policy 'sglang'"),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_both_names(
    options: tuple[str, ...], message: str
) -> None:
    mode = () if "without" in message else ("--mode", "disaggregated")
    command = ["simulate", "spec/llama.llm", "--trace", "spec/traces/chat.csv", *mode, *options]
    told = CliRunner().invoke(cli, command)
    assert (told.exit_code, message in told.output) == (2, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": replace(PREFILL, sku="h100")}, "unknown SKU 'h100'"),
        ({"decode": replace(DECODE, tp=3)}, "tp=3"),
        ({"link": AskedLink(bytes_per_s=0.0)}, "the bandwidth must be above 0"),
        ({"link": AskedLink(layers=0)}, "there must be 1 or more"),
    ],
)
def test_a_setup_that_cannot_be_is_one_sentence(
    loader: TableLoader, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(loader, replace(PoolsSetup(PREFILL, DECODE), **changes))


def test_a_role_that_the_model_does_not_fit_is_infeasible(loader: TableLoader) -> None:
    large = load_spec(REPOSITORY / "spec" / "llama.llm").model("llama-3.1-70b")
    roles = (replace(PREFILL, program=large, tp=8), replace(DECODE, program=large))
    with pytest.raises(InfeasibleError, match=r"llama-3.1-70b on l40s with tp=1 pp=1"):
        run(loader, PoolsSetup(*roles))


def test_roles_of_two_models_are_refused() -> None:
    other = load_spec(REPOSITORY / "spec" / "llama.llm").model("llama-3.1-70b")
    with pytest.raises(UserError, match="both roles must serve one model"):
        PoolsSetup(PREFILL, replace(DECODE, program=other))


def test_prefixes_of_the_decode_role_are_refused() -> None:
    with pytest.raises(UserError, match="prefix_caching of the decode role: its replicas keep no"):
        PoolsSetup(PREFILL, replace(DECODE, prefix_caching=True))
