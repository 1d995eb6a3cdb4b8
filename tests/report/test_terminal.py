"""The command line in a real terminal (tmux), 80 and 200 columns wide: nothing is wider, nothing is coloured
where colours are not wanted, and a pipe gets plain text."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servecast.simulator.cli import cli

Result = dict[str, Any]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
COLOURED = re.compile(r"\x1b\[(?:[0-9;]*;)?[34][0-7][0-9;]*m")
TIMEOUT_S = 30
needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="tmux is not installed: no real terminal is tried"
)


@dataclass(frozen=True)
class Terminal:
    """A tmux server of its own with one pane."""

    folder: Path
    columns: int

    def run(self, *commands: str, **environment: str) -> str:
        """What the pane shows once the commands have ended, lines that wrap joined, with escapes."""
        ended = self.folder / f"ended-{self.columns}"
        ended.unlink(missing_ok=True)
        said = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        body = "; ".join(f"env {said} {command}" for command in commands)
        socket = str(self.folder / f"tmux-{time.monotonic_ns()}")
        self._tmux(socket, "new-session", "-d", "-x", str(self.columns), "-y", "400", "sh")
        self._tmux(socket, "send-keys", f"clear; {body}; touch {shlex.quote(str(ended))}", "Enter")
        begin = time.monotonic()
        while not ended.exists() and time.monotonic() < begin + TIMEOUT_S:
            time.sleep(0.05)  # of another process's work
        text = self._tmux(socket, "capture-pane", "-p", "-J", "-e")
        self._tmux(socket, "kill-server")
        assert ended.exists(), text
        return text

    @staticmethod
    def _tmux(socket: str, *arguments: str) -> str:
        command = ["tmux", "-S", socket, "-f", "/dev/null", *arguments]
        bare = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR", "COLUMNS")}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={**bare, "PS1": ""}
        ).stdout


def shown(text: str) -> list[str]:
    """Lines without escapes, from the first that the commands printed."""
    return [COLOUR.sub("", line).rstrip() for line in text.splitlines()]


@pytest.fixture(scope="module", params=[80, 200])
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("terminal"), request.param)


SERVECAST = shlex.quote(str(Path(sys.executable).with_name("servecast")))
SHOW = """
import json, sys
from rich.console import Console
from servecast.simulator.commands.search_answer import show
show(json.load(open(sys.argv[1])), Console())
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, pristine: Result) -> Path:
    path = tmp_path_factory.mktemp("results") / "results.json"
    path.write_text(json.dumps(pristine))
    path.with_name("show.py").write_text(SHOW)
    return path


@needs_tmux
def test_an_answer_fits_the_terminal_and_its_table_is_whole(
    terminal: Terminal, saved: Path
) -> None:
    text = terminal.run(f"{sys.executable} {saved.with_name('show.py')} {saved}")
    lines = shown(text)
    assert max(map(len, lines)) <= terminal.columns
    heading = next(line for line in lines if line.startswith("SKU"))
    assert ("binds" in heading) == (terminal.columns == 200)
    assert all("…" not in line for line in lines if line.startswith(("h100-sxm", "a100-sxm")))
    assert COLOUR.search(text), "a terminal gets bold"


@needs_tmux
def test_every_command_of_a_visit_fits_the_terminal(terminal: Terminal, saved: Path) -> None:
    store = saved.with_name("none.duckdb")
    visits = (f"explain {saved}", f"doctor --store {store}", "--help", "compile --help")
    lines = shown(terminal.run(*(f"{SERVECAST} {visit}" for visit in visits)))
    assert max(map(len, lines)) <= terminal.columns
    assert any("one step aside" in line for line in lines)


@needs_tmux
def test_no_color_is_heeded(terminal: Terminal, saved: Path) -> None:
    command = f"{sys.executable} {saved.with_name('show.py')} {saved}"
    assert not COLOURED.search(terminal.run(command, NO_COLOR="1"))


def test_a_pipe_gets_plain_text(saved: Path) -> None:
    done = subprocess.run(
        [sys.executable, saved.with_name("show.py"), saved],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert "_SERVECAST_COMPLETE" in done.output


def test_completion_offers_commands_and_options() -> None:
    asked = {**os.environ, "_SERVECAST_COMPLETE": "bash_complete"}

    def offered(words: str, place: int) -> set[str]:
        environment = {**asked, "COMP_WORDS": words, "COMP_CWORD": str(place)}
        done = subprocess.run(
            [Path(sys.executable).with_name("servecast")],
            capture_output=True,
            text=True,
            env=environment,
        )
        return {line.partition(",")[2] for line in done.stdout.splitlines()}

    assert {"report", "plot", "profile"} <= offered("servecast ", 1)
    assert "--format" in offered("servecast plot --f", 2)
