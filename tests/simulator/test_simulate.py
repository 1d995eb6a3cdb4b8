"""One configuration simulated: the summary adds up, and what cannot run is one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from servecast.compiler.catalog import parse_slo, shipped_skus
from servecast.compiler.errors import InfeasibleError, UserError
from servecast.compiler.load import load_spec
from servecast.estimator.engine_profile import DEFAULT_ENGINE, ENGINE_PROFILES
from servecast.estimator.load import TableLoader
from servecast.simulator.cli import cli
from servecast.simulator.commands.simulate_cli import simulate_command
from servecast.simulator.commands.simulate_job import save_simulation
from servecast.simulator.engine.lifecycle import Autoscaling
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.speculation import Speculation
from servecast.simulator.metrics.classes import targets_of
from servecast.simulator.simulate import Setup, Simulated, mtp_module, simulate_setup
from servecast.simulator.simulate_pools import PoolsSetup, simulate_pools
from servecast.simulator.traffic.workload import TraceOrigin, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
SETUP = Setup(load_spec(REPOSITORY / "spec" / "llama.llm").model(None), "h100-sxm")


def workload(num_requests: int = 60) -> Workload:
    index = np.arange(num_requests)
    origin = TraceOrigin("t.csv", "servecast", index + 2)
    return Workload(
        "t.csv", 0.1 * index.astype(np.float64), 100 + 7 * index, 1 + index % 40, origin
    )


@pytest.fixture(scope="module")
def loader() -> TableLoader:
    """Physics alone: no package's timings are imported."""
    return TableLoader(None, sources=())


def run(loader: TableLoader, **changes: Any) -> Simulated:
    return simulate_setup(dataclasses.replace(SETUP, **changes), shipped_skus(), workload(), loader)


def test_the_summary_is_json_and_accounts_for_every_request(loader: TableLoader) -> None:
    done = run(loader)
    json.dumps(done.summary, allow_nan=False)
    assert done.summary["requests"] == {
        "arrived": 60,
        "finished": 60,
        "rejected": 0,
        "unfinished": 0,
    }
    assert sum(done.summary["time_by_source"].values()) == pytest.approx(1)
    assert done.summary["stable"] is True


def test_cost_is_the_price_over_the_tokens(loader: TableLoader) -> None:
    summary = run(loader, replicas=2).summary
    price = 2 * shipped_skus()["h100-sxm"].usd_per_hour
    assert summary["configuration"]["usd_per_hour"] == price
    tokens = int(workload().output_tokens.sum())
    hours = summary["duration_s"] / 3600
    assert summary["usd_per_million_output_tokens"] == pytest.approx(price * hours / tokens * 1e6)


def test_mtp_is_faster_than_one_token_a_step_where_most_drafts_are_accepted(
    loader: TableLoader,
) -> None:
    modes, module = Modes(speculation=Speculation((0, 0, 1), (0.9,))), mtp_module(SETUP.program)
    slow, fast, free = (
        run(loader, **changes).summary
        for changes in ({}, {"modes": modes, "drafter": module}, {"modes": modes})
    )
    tpot_s = [each["metrics"]["tpot_s"]["p50"] for each in (free, fast, slow)]
    assert tpot_s == sorted(tpot_s)
    assert 1 < fast["modes"]["speculation"]["tokens_per_check"] < 3


def test_contradictory_options_of_speculation_are_refused_by_both_names() -> None:
    wrong = {
        ("--drafter", "mtp"): "Error: --drafter without --speculation: say how many tokens",
        ("--drafter", "mtp", "--speculation", "cost=0.1"): "Error: --drafter with cost= in --spec",
        ("--speculation", "draft=2", "--speculation-trace", "x"): "--speculation-trace with draft=",
    }
    for options, message in wrong.items():
        command = ["simulate", "spec/llama.llm", "--trace", "spec/traces/chat.csv", *options]
        assert message in CliRunner().invoke(cli, command).output


@pytest.mark.parametrize("name", ["carbon_g_per_kwh", "queue_timeout_s", "pause_s"])
@pytest.mark.parametrize("value", [-5.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^{name} must be a number from 0 up, got "):
        dataclasses.replace(SETUP, **{name: value})


def test_more_replicas_never_slow_the_median_down(loader: TableLoader) -> None:
    one, four = (run(loader, replicas=n).summary["metrics"] for n in (1, 4))
    assert four["ttft_s"]["p50"] <= one["ttft_s"]["p50"]


def test_flops_utilisation_counts_two_flops_a_parameter_and_token(loader: TableLoader) -> None:
    """Attention adds a little to 2 x 7.5e9 a token (without the embedding) and 1.05e9 an output."""
    summary = run(loader).summary
    tokens = int((workload().prompt_tokens + workload().output_tokens - 1).sum())
    outputs = int(workload().output_tokens.sum())
    flops = 2 * (6.98e9 * tokens + 0.525e9 * outputs)
    peak = shipped_skus()["h100-sxm"].peak("bf16")
    assert peak is not None
    assert summary["mfu"] == pytest.approx(flops / summary["duration_s"] / peak, rel=0.05)


def test_hidden_collectives_and_scattered_rows_shorten_steps(loader: TableLoader) -> None:
    hiding = TableLoader(None, (), ENGINE_PROFILES[DEFAULT_ENGINE].given("a test", overlap=0.5))
    plain, hidden = (
        run(each, tp=2).summary["metrics"]["tpot_s"]["p50"] for each in (loader, hiding)
    )
    assert hidden < plain
    assert run(loader, tp=2, sequence_parallel=True).summary["configuration"]["sequence_parallel"]


def test_what_a_single_rank_cannot_do_is_refused(loader: TableLoader) -> None:
    with pytest.raises(UserError, match="sequence_parallel with tp=1"):
        run(loader, sequence_parallel=True)
    command = ["simulate", "spec/llama.llm", "--trace", "spec/traces/chat.csv"]
    for share, message in (("0.5", "without --tp: a single rank"), ("nan", "must be from 0 to 1")):
        told = CliRunner().invoke(cli, [*command, "--comm-overlap", share])
        assert told.output.startswith(f"Error: --comm-overlap {message}")


def test_a_request_that_no_empty_cache_holds_is_rejected_by_name(loader: TableLoader) -> None:
    done = run(loader, kv_blocks=30)
    assert done.summary["requests"]["rejected"] == int(done.records.rejected.sum()) > 0
    first = int(np.argmax(done.records.rejected))
    assert done.summary["rejected"][0] == {
        "request": f"t.csv:{first + 2}",
        "kv_blocks": 31,
        "reason": "needs more than the 30 KV blocks there are",
    }
    assert done.summary["requests"]["finished"] > 0


def test_a_model_that_does_not_fit_is_one_sentence(loader: TableLoader) -> None:
    large = load_spec(REPOSITORY / "spec" / "llama.llm").model("llama-3.1-70b")
    with pytest.raises(
        InfeasibleError, match=r"llama-3.1-70b on h100-sxm with tp=1 pp=1: does not"
    ):
        run(loader, program=large)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sku": "a100"}, r"unknown SKU 'a100' \(did you mean 'a100-sxm-80gb'\?\); declared"),
        ({"router": "psychic"}, "router 'psychic' is not one of round_robin"),
        ({"policy": "lottery"}, "policy 'lottery' is not one of vllm_v1"),
        ({"tp": 3}, "tp=3"),
        ({"max_num_seqs": 512, "max_batched_tokens": 256}, "256 < 512"),
    ],
)
def test_a_setup_that_cannot_be_is_one_sentence(
    loader: TableLoader, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(loader, **changes)


def test_a_run_is_saved_whole(loader: TableLoader, tmp_path: Path) -> None:
    save_simulation(run(loader), tmp_path / "run")
    names = ["requests.parquet", "steps.parquet", "summary.json", "timeline.json"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    assert json.loads((tmp_path / "run" / "timeline.json").read_text())["otherData"]["steps"] > 0


def test_a_place_that_cannot_be_written_is_one_sentence(
    loader: TableLoader, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run there"):
        save_simulation(run(loader), tmp_path / "file" / "run")


@pytest.mark.slow
def test_the_command_prints_a_summary_for_people_and_for_programs(tmp_path: Path) -> None:
    arguments = [str(REPOSITORY / "spec" / "llama.llm"), "--requests", "50", "--rate", "2"]
    arguments += ["--trace", str(REPOSITORY / "spec" / "traces" / "chat.csv")]
    arguments += ["--store", str(tmp_path / "store.duckdb"), "--out", str(tmp_path / "run")]
    plain = CliRunner().invoke(simulate_command, arguments, catch_exceptions=False)
    assert plain.output.startswith("llama-3.1-8b on 1 replica of h100-sxm (TP 1, PP 1) keeps up")
    printed = CliRunner().invoke(simulate_command, [*arguments, "--json"], catch_exceptions=False)
    summary = json.loads(printed.output)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["workload"]["rate_per_s"] == pytest.approx(2)
    assert summary["time_by_source"]["interpolated"] > 0


def test_who_gives_up_or_is_turned_away_is_named_with_the_reason(loader: TableLoader) -> None:
    impatient = run(loader, max_num_seqs=1, queue_timeout_s=0.25).summary
    assert impatient["rejected"][0]["reason"] == "gave up after 0.25 s in the queue"
    crowded = run(loader, max_num_seqs=1, max_queue=2).summary
    assert crowded["rejected"][0]["reason"] == "found 2 requests waiting"
    asked = crowded["requests"]
    assert asked["arrived"] == asked["finished"] + asked["rejected"] == 60


def test_contradictory_modes_are_refused_by_both_names() -> None:
    wrong = {
        ("--lock-step",): "--lock-step without --dp: it takes 2 engines or more",
        ("--fail-lost",): "--fail-lost without --lose: no replica is lost",
        ("--pause", "1"): "--pause without --clients: requests come at the trace's times",
        (
            "--autoscale",
            "most=2",
            "--replicas",
            "2",
        ): "--autoscale with --replicas: most= and least=",
        ("--autoscale", "most=2", "--dp", "2"): "--autoscale with --dp: the engines of a replica",
        (
            "--class-queues",
            "3/x",
        ): "--class-queues must be a whole number from 0 to 1000000, got 'x'",
        ("--speculation", "draft=1e12"): "draft must be a whole number from 0 to 64, got '1e12'",
        ("--speculation", "draft=2.5"): "draft must be a whole number from 0 to 64, got '2.5'",
    }
    for options, message in wrong.items():
        command = ["simulate", "spec/llama.llm", "--trace", "spec/traces/chat.csv", *options]
        assert message in CliRunner().invoke(cli, command).output


def test_an_autoscaled_fleet_pays_for_the_replicas_that_it_has(loader: TableLoader) -> None:
    always = run(loader, replicas=2).summary
    scaling = Autoscaling(2, target=1000)
    scaled = run(loader, replicas=2, modes=Modes(scaling=scaling)).summary
    assert scaled["modes"]["scaling"]["most"] == 1
    cost = "usd_per_million_output_tokens"
    assert scaled[cost] == pytest.approx(always[cost] / 2, rel=0.1)


def test_every_class_has_its_latencies_and_its_share_of_kept_targets(loader: TableLoader) -> None:
    some = dataclasses.replace(workload(), priority=np.arange(60) % 2)
    slo = parse_slo("ttft p90 < 1ms")
    setup = dataclasses.replace(SETUP, slos=(slo,))
    done = simulate_setup(setup, shipped_skus(), some, loader)
    first, second = done.summary["classes"]
    assert (first["priority"], first["arrived"], second["finished"]) == (0, 30, 30)
    assert first["attained"] == second["attained"] == 0
    ttft_s = done.records.first_token_s - done.records.arrival_s
    assert second["ttft_s"]["p50"] == np.sort(ttft_s[1::2])[14]


def test_a_target_of_a_class_binds_its_requests_alone(loader: TableLoader) -> None:
    """Class 1 must have its answer in no time, class 0 has hours: half of all requests are in time."""
    some = dataclasses.replace(workload(), priority=np.arange(60) % 2)
    targets = targets_of(("e2e p90 < 9000 s", "class 1: e2e p99 < 1 us"))
    setup = dataclasses.replace(SETUP, slos=targets.slos, class_slos=targets.by_class)
    summary = simulate_setup(setup, shipped_skus(), some, loader).summary
    rate_per_s = 30 / summary["duration_s"]
    assert summary["goodput"] == {"attained": 0.5, "requests_per_s": pytest.approx(rate_per_s)}
    first, second = summary["classes"]
    assert (first["attained"], second["attained"]) == (1.0, 0.0)
    assert first["goodput_requests_per_s"] == pytest.approx(rate_per_s)
    pools = PoolsSetup(setup, SETUP)
    assert simulate_pools(pools, shipped_skus(), some, loader).summary["goodput"]["attained"] == 0.5


def test_targets_of_classes_that_nobody_is_of_are_refused(loader: TableLoader) -> None:
    targets = targets_of(("class 7: e2e p90 < 1 s",))
    setup = dataclasses.replace(SETUP, class_slos=targets.by_class)
    with pytest.raises(
        UserError, match=r"^t\.csv: targets of a class need each request's priority$"
    ):
        simulate_setup(setup, shipped_skus(), workload(), loader)
    some = dataclasses.replace(workload(), priority=np.arange(60) % 2)
    with pytest.raises(UserError, match=r"^t\.csv: no request is of class 7; there are 0, 1$"):
        simulate_setup(setup, shipped_skus(), some, loader)
    with pytest.raises(UserError, match=r"^--slo's class must be a whole number from 0 to 1000000"):
        targets_of(("class gold: ttft p90 < 1 s",))
