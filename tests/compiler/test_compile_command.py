"""`servecast compile`: what it prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from servecast.compiler.cli import compile_command
from servecast.compiler.errors import UserError

SPECS = Path(__file__).parents[2] / "spec"
SPEC = str(SPECS / "llama.llm")
FAMILIES = sorted(
    path for path in SPECS.glob("*.llm") if path.name not in ("llama.llm", "skus.llm")
)
GOLDEN = Path(__file__).parents[1] / "golden" / "compiler"


def run(*args: str, spec: str = SPEC) -> Result:
    return CliRunner().invoke(compile_command, [spec, *args], catch_exceptions=True)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("llama-3.1-8b.ir.txt", ("--emit", "ir")),
        ("llama-3.1-8b.tp2-pp2.plan.txt", ("--tp", "2", "--pp", "2", "--sku", "h100-sxm")),
        ("llama-3.1-8b.tp4.kernels.txt", ("--emit", "kernels", "--tp", "4")),
    ],
)
def test_the_printed_text_is_the_reviewed_one(name: str, args: tuple[str, ...]) -> None:
    assert run(*args).output == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_the_operators_of_each_family_are_the_reviewed_ones(path: Path) -> None:
    text = run("--emit", "ir", spec=str(path)).output
    assert text == (GOLDEN / f"{path.stem}.ir.txt").read_text(encoding="utf-8")


def test_a_deepseek_plan_over_experts_is_the_reviewed_one() -> None:
    args = ("--tp", "2", "--dp", "4", "--ep", "8", "--pp", "2", "--sku", "h200-sxm")
    text = run(*args, "--sequence-parallel", spec=str(SPECS / "deepseek-v3.llm")).output
    assert text == (GOLDEN / "deepseek-v3.ep8.plan.txt").read_text(encoding="utf-8")


def test_json_has_the_parameters_and_the_memory() -> None:
    result = json.loads(run("--emit", "json", "--tp", "2", "--sku", "a30").output)
    assert result["parameters"] == 8_030_261_248
    assert result["parallelism"]["gpus"] == 2
    assert result["memory"]["kv_blocks"] > 0


def test_json_says_of_each_collective_its_kind_bytes_and_group() -> None:
    result = json.loads(run("--emit", "json", "--tp", "2", "--pp", "2").output)
    operators = [op for s in result["stages"] for r in s["runs"] for op in r["operators"]]
    collectives = {
        (op["kind"], op["group"], op["degree"], op["bytes_per_row"])
        for op in operators
        if "group" in op
    }
    assert collectives == {
        ("all_reduce", "tp", 2, 2 * 4096),
        ("all_gather", "tp", 2, 2 * 128256),
        ("send", "pp", 2, 2 * 4096),
    }


def test_an_unknown_gpu_is_a_user_error() -> None:
    error = run("--sku", "h10").exception
    assert isinstance(error, UserError)
    assert "unknown GPU 'h10'" in str(error)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--kv-blocks", "9"), "--sequence-tokens and --kv-blocks need --sku"),
        (("--all-degrees",), "--all-degrees and --all-models need --emit kernels"),
    ],
)
def test_an_option_without_what_it_is_for_is_a_usage_error(
    args: tuple[str, ...], message: str
) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr
