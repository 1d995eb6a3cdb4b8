"""``servecast doctor``: what is absent can be done without, what is wrong ends with 4."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from servecast.estimator.store import Store
from servecast.simulator.cli import cli
from servecast.simulator.commands import doctor


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments], catch_exceptions=False)


def findings(*arguments: str) -> dict[str, dict[str, str]]:
    return {each["what"]: each for each in json.loads(run(*arguments, "--json").stdout)}


def test_a_store_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    done = run("--store", str(tmp_path / "none.duckdb"))
    assert done.exit_code == 0
    assert "is made on first use" in " ".join(done.stdout.split())
    assert not (tmp_path / "none.duckdb").exists()


def test_an_empty_store_is_healthy_and_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "profiles.duckdb"
    with Store.open(path):
        pass
    assert findings("--store", str(path))["store"]["told"] == f"{path}: 0 rows of no GPU"


def test_a_file_that_is_no_store_is_wrong_and_alone_in_a_quiet_answer(tmp_path: Path) -> None:
    path = tmp_path / "profiles.duckdb"
    path.write_text("hello, this is no database at all")
    done = run("--store", str(path), "--quiet")
    assert done.exit_code == 4
    assert done.stdout.startswith("store  wrong  ")
    assert "cannot be opened as a profile store" in " ".join(done.stdout.split())


def test_a_quiet_answer_of_a_healthy_installation_is_empty(tmp_path: Path) -> None:
    done = run("--store", str(tmp_path / "none.duckdb"), "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")


def test_an_extra_that_is_missing_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "plot", (("no_such_module",), "figures"))  # type: ignore[arg-type]  # a dict
    found = findings("--store", str(tmp_path / "none.duckdb"))["extra plot"]
    told = "figures: pip install 'servecast[plot]' brings no_such_module"
    assert found == {"what": "extra plot", "state": "absent", "told": told}


def test_a_driver_that_fails_is_wrong_and_one_that_answers_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert subprocess.run(["nvidia-smi"], check=True, stdout=subprocess.DEVNULL).returncode == 0
    where = str(tmp_path / "none.duckdb")
    assert findings("--store", where)["gpu"]["told"] == "NVIDIA H100 80GB HBM3, 570.1"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert findings("--store", where)["gpu"]["state"] == "wrong"
