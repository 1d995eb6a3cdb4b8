"""The commands of agents.md, in their order, with a processor for a GPU and a tiny model."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml
from pages import DOCS, documented

from servecast.agent.cli import serve

SPEC = """\
model "tiny" {
    source   "made for tests"
    context  64
    weights  bf16
    kv_cache bf16
    let hidden = 32, vocab = 64, heads = 2, head = 16
    embedding vocab -> hidden
    repeat 2 {
        residual {
            linear    hidden -> 3*heads*head  split columns by heads
            attention heads/heads x head
            linear    heads*head -> hidden  split rows
        }
    }
    linear   hidden -> vocab  split columns  at last_token
}
"""
ON_A_PROCESSOR = {
    "agent check": "--library torch_weight_only",
    "agent serve": "--backend cpu --sku cpu --threads 1 --quiet --port {port}",
    "servecast profile": "--tp 1 --max-num-batched-tokens 2 --max-num-seqs 1 --max-context 4 "
    "--max-case-s 0.01",
}
"""What is added to each command, so that it needs no GPU and takes seconds."""
WAIT = """
while ! (exec 3<> /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do kill -0 $!; sleep 0.05; done
trap 'kill %1; wait' EXIT
"""
"""What a person does without being told: wait until the agent listens, and end it afterwards."""


@pytest.mark.parametrize("begins", ["agent serve &", "agent serve --host"])
def test_an_agent_is_served_and_profiled(begins: str, tmp_path: Path) -> None:
    """The second way is with a token and certificates on both sides."""
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec" / "llama.llm").write_text(SPEC)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ""
    for line in documented("agents.md", begins).splitlines(keepends=True):
        words = " ".join(line.split()[:2])
        added = f"{words} {ON_A_PROCESSOR.get(words, '')}"
        script += line.replace("50051", str(port)).replace(words, added.format(port=port))
        if words == "agent serve":
            script += WAIT.format(port=port)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^cpu: [1-9]\d* measured, .* 0 left", done.stdout, re.MULTILINE)


UNIT = (DOCS / "agent" / "servecast-agent.service").read_text(encoding="utf-8")
DAEMON_SET = yaml.safe_load((DOCS / "agent" / "daemonset.yaml").read_text(encoding="utf-8"))


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd here to verify the unit with"
)
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "servecast-agent.service"
    installed = Path(sys.executable).with_name("agent")
    unit.write_text(UNIT.replace("/opt/servecast/bin/agent", str(installed)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_kubernetes_takes_the_daemon_set() -> None:
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(DAEMON_SET, newest, strict=True)
    spoilt = {**DAEMON_SET["spec"], "templates": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="templates"):
        kubernetes_validate.validate({**DAEMON_SET, "spec": spoilt}, newest, strict=True)


def test_both_start_the_agent_with_options_that_it_has() -> None:
    (command,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", UNIT, re.MULTILINE)
    (container,) = DAEMON_SET["spec"]["template"]["spec"]["containers"]
    for words in (
        shlex.split(command.replace("\\\n", " ")),
        container["command"] + container["args"],
    ):
        assert Path(words[0]).name == "agent"
        assert words[1] == "serve"
        serve.make_parser(click.Context(serve)).parse_args(words[2:])
