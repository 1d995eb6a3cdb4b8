"""The packaging promises: every package on disk is installed, layers import downwards, files stay small."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("spec", "compiler", "protos", "agent", "estimator", "simulator")


def test_pyproject_lists_every_package_on_disk() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        "servecast." + ".".join(init.parent.relative_to(REPOSITORY).parts)
        for folder in FOLDERS
        for init in (REPOSITORY / folder).rglob("__init__.py")
    }
    assert listed["package-dir"]["servecast"] == "simulator/api"
    assert set(listed["packages"]) == on_disk - {"servecast.simulator.api"} | {"servecast"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("servecast.agent.cli", ("duckdb", "lark", "sklearn", "numba", "torch", "scipy")),
        ("servecast.simulator.cli", ("duckdb", "sklearn", "numba", "torch", "scipy", "grpc")),
        ("servecast.compiler.sharded", ("lark", "numpy", "click")),
    ],
)
def test_importing_a_command_line_stays_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
