"""What one operator is and costs, what differs between models, and what there is to profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from servecast.compiler.catalog import compile_text
from servecast.compiler.cli import compile_command, diff_command
from servecast.compiler.diff import diff_programs
from servecast.compiler.dump import distinct_kernels
from servecast.compiler.errors import UserError
from servecast.compiler.explain import explain
from servecast.compiler.kernels import num_cases
from servecast.compiler.load import load_model, load_spec
from servecast.compiler.shard import all_degrees, shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.profiling.plan import PlanLimits, plan_cases

SPEC = Path(__file__).parents[2] / "spec"
LLAMA = load_spec(SPEC / "llama.llm").model()


def test_an_operator_is_explained_with_its_formula() -> None:
    text = explain(LLAMA, shard(LLAMA, Parallelism(tp=2)), "qkv_proj")
    assert "unsharded  4096 -> 6144" in text
    assert "per GPU    4096 -> 3072 at tp 2" in text
    assert "2 x 4096 x 3072 = 25,165,824 FLOP a row" in text


def test_a_collective_of_one_rank_is_nothing() -> None:
    text = explain(LLAMA, shard(LLAMA, Parallelism()), "o_proj_all_reduce")
    assert "nothing at tp 1 ep 1 dp 1: there is no one to meet" in text


@pytest.mark.parametrize("path", sorted(SPEC.glob("*.llm")), ids=lambda path: path.stem)
def test_every_operator_can_be_explained(path: Path) -> None:
    for program in load_spec(path).models.values():
        sharded = shard(program, Parallelism(tp=2))
        for name in {site.name for run in program.runs for site in run.sites}:
            assert explain(program, sharded, name).startswith(name)


def test_an_unknown_operator_is_suggested() -> None:
    with pytest.raises(UserError, match=r"no operator 'q_proj' \(did you mean 'qkv_proj'\?\)"):
        explain(LLAMA, shard(LLAMA, Parallelism()), "q_proj")


def test_equal_models_have_no_difference() -> None:
    assert diff_programs(LLAMA, LLAMA) == (
        "llama-3.1-8b and llama-3.1-8b: no difference in operators or memory\n"
    )


def test_a_difference_names_operators_and_totals() -> None:
    llama_2 = load_model(f"{SPEC / 'llama.llm'}:llama-2-7b")
    lines = diff_programs(LLAMA, llama_2).splitlines()
    assert "- layer.attn: attention 32/8 x 128 bf16 columns" in lines
    assert "+ layer.attn: attention 32/32 x 128 fp16 columns" in lines
    assert "  KV bytes per token: 131,072 -> 524,288 (x 4)" in lines


def test_equal_layers_are_paired_whatever_they_are_called() -> None:
    """A dense layer less makes the other kind of layer the first, and so `layer_a`, or the only one."""
    text = (SPEC / "deepseek-v3.llm").read_text(encoding="utf-8")
    text += '\nmodel "more" like "deepseek-v3" {\n    repeat 5\n    repeat 56\n}\n'
    models = compile_text(text, "d.llm").models
    lines = diff_programs(models["deepseek-v3"], models["more"]).splitlines()
    layers = [line for line in lines if "layer" in line and not line.startswith("  ")]
    assert layers == ["- layer_a: x 3", "+ layer_a: x 5", "- layer_b: x 58", "+ layer_b: x 56"]
    gemma = (SPEC / "gemma3.llm").read_text(encoding="utf-8")
    turned = gemma.replace("repeat 5 {\n            local", "repeat 5 {\n            global", 1)
    one, other = compile_text(gemma, "g").model(), compile_text(turned, "g").model()
    assert other.layers[0].sites == one.layers[1].sites  # called layer_a there, layer_b here
    lines = diff_programs(one, other).splitlines()
    assert "- layer_a: x 52" in lines
    assert "+ layer_b: x 60" in lines
    assert not [line for line in lines if "attn" in line]


def test_the_diff_command_reads_file_and_model() -> None:
    path = SPEC / "llama.llm"
    result = CliRunner().invoke(diff_command, [str(path), f"{path}:llama-3.1-70b"])
    assert "  layers: 32 -> 80 (x 2.5)" in result.output


def test_shapes_that_degrees_and_models_share_are_profiled_once() -> None:
    models = load_spec(SPEC / "llama.llm").models
    both = [models["llama-3.1-70b"], models["codellama-34b"]]
    apart = [distinct_kernels(shard(m, p) for p in all_degrees(m, 8)) for m in both]
    together = distinct_kernels(shard(m, p) for m in both for p in all_degrees(m, 8))
    assert len(together) < sum(map(len, apart))
    assert set(together) == {shape for shapes in apart for shape in shapes}


def test_the_degrees_of_a_sparse_model_deal_its_experts() -> None:
    program = load_spec(SPEC / "gpt-oss.llm").model()
    shapes = distinct_kernels(shard(program, p) for p in all_degrees(program, 8))
    held = {dict(shape.dims)["experts"] for shape in shapes if shape.kernel == "experts"}
    assert held == {128, 64, 32, 16}
    assert {"all_to_all", "reduce_scatter", "all_gather"} <= {shape.kernel for shape in shapes}


def test_the_number_of_cases_is_what_the_profiler_plans() -> None:
    for name in ("llama", "deepseek-v3"):
        sharded = shard(load_spec(SPEC / f"{name}.llm").model(), Parallelism(tp=2, pp=2))
        planned = len(plan_cases([sharded], PlanLimits()))
        assert sum(map(num_cases, distinct_kernels([sharded]))) == planned


def test_kernels_of_all_degrees_are_listed_once() -> None:
    args = [str(SPEC / "llama.llm"), "--emit", "kernels", "--all-degrees", "--all-models"]
    lines = CliRunner().invoke(compile_command, args).output.splitlines()
    assert len(lines[2:]) == len(set(lines[2:])) == int(lines[0].split()[0])
