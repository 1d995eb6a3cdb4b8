"""The first commands of agents.md, in their order, with a processor for a GPU and a tiny model."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

from pages import documented

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
    "agent serve": "--backend cpu --sku cpu --threads 1 --quiet --port {port}",
    "agent describe": "",
    "servecast profile": "--tp 1 --max-num-batched-tokens 8 --max-num-seqs 2 --max-context 32 "
    "--max-case-s 0.01",
}
"""What is added to each command, so that it needs no GPU and takes seconds."""


def test_an_agent_is_checked_served_described_and_profiled(tmp_path: Path) -> None:
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec" / "llama.llm").write_text(SPEC)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = None
    check, *lines = documented("agents.md", "agent serve &").splitlines()
    assert check.startswith("agent check ")  # whose kernels tests/agent runs one by one
    try:
        for words in (shlex.split(line, comments=True) for line in lines):
            added = ON_A_PROCESSOR[" ".join(words[:2])].format(port=port).split()
            program = Path(sys.executable).with_name(words[0])
            asked = [word.replace("50051", str(port)) for word in words[1:] if word != "&"]
            command = [str(program), *asked, *added]
            if "serve" in words:
                served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                assert served.stdout is not None
                assert str(port) in served.stdout.readline()
                continue
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    finally:
        if served is not None and served.stdout is not None:
            served.terminate()
            served.wait(timeout=30)
            served.stdout.close()
    assert (tmp_path / "profile.duckdb").exists()
