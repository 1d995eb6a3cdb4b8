"""No text makes the compiler do anything but compile or say what is wrong, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark

from servecast.compiler.catalog import compile_text
from servecast.compiler.dump import emit_plan
from servecast.compiler.errors import SpecError, UserError
from servecast.compiler.load import load_spec
from servecast.compiler.parse import grammar
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism

REPOSITORY = Path(__file__).parents[2]
TINY = (REPOSITORY / "tests/golden/compiler/wrong/no-layers.llm").read_text(encoding="utf-8")


def test_mutated_specs_compile_or_are_refused() -> None:
    """A bounded share of what the script does at length; the next run's seed is its own."""
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "fuzz_specs.py"), "--count", "400"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["outcomes"].keys() == {"SpecError", "compiled"}
    assert report["peak_mb"] is None or report["peak_mb"] < 200


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
@example(text="\0")
@example(text='model "m" { context 9 } ' + "\u202e")
def test_any_text_is_read_or_refused(text: str) -> None:
    assert_read_or_refused(text, "any.llm")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=from_lark(grammar(), start="start"))
def test_any_sentence_of_the_grammar_is_compiled_or_refused(text: str) -> None:
    assert_read_or_refused(text, "sentence.llm")


def assert_read_or_refused(text: str, name: str) -> None:
    """A refusal names the file first."""
    refusal = f"{name}:"
    try:
        compile_text(text, name)
    except SpecError as error:
        refusal = str(error)
    assert refusal.startswith(f"{name}:")


def nested(depth: int) -> str:
    return 'model "m" { context 8 embedding 8 -> 8 repeat 1 {' + "residual {" * depth


SIBLINGS = """
model "a" {
    context 8
    block x { residual { linear 8 -> 24  split columns  attention 2 x 4  linear 8 -> 8  split rows } }
    block y { residual { linear 8 -> 24  attention 2 x 4  linear 8 -> 8 } }
    embedding 9 -> 8
    repeat 1900 { x y }
    linear 8 -> 9  at last_token
}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SIBLINGS + "".join(f'model "s{i}" like "a" {{}}\n' for i in range(1500)),
            "than 10,000 layers",
        ),
        (nested(4_500), "brackets nest at most 40 deep"),
        ("#" + "x" * (10 << 20), "bytes; a spec has at most 49,152"),
        ('model "m" { let a = ' + "9" * 45_000 + " }", "45000 digits: a number has at most 15"),
        ('model "m" { let a = ' + "1+" * 24_000 + "1 }", "an expression nests at most 60 deep"),
        ('model "' + "m" * 45_000 + '" { context }', "expected"),
        ("x " * 24_000, "unexpected 'x'; expected 'model'"),
        ('sku "' + "m" * 45_000 + '" { memory 1 GB }', "^hostile.llm:1:5: 'mmm"),
        (TINY.replace("rms_norm 8", "repeat " + "b" * 45_000 + " { }"), "unknown name 'bbb"),
        (TINY.replace("rms_norm 8", "repeat 1000000000 { repeat 9 { rms_norm 8 } }"), "expands to"),
    ],
    ids=[
        "siblings",
        "nesting",
        "size",
        "number",
        "expression",
        "name",
        "noise",
        "sku",
        "word",
        "repeats",
    ],
)
def test_a_hostile_text_is_refused_within_a_second(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(SpecError, match=message) as caught:
        compile_text(text, "hostile.llm")
    assert time.process_time() - start < 2.0  # less than half a second where nothing else runs
    assert len(str(caught.value)) < 2000


def test_the_largest_model_that_is_allowed_is_printed_within_a_second() -> None:
    text = SIBLINGS.replace("repeat 1900 { x y }", "repeat 1 { " + "x y y " * 1300 + "}")
    start = time.process_time()
    program = compile_text(text, "large.llm").model()
    emit_plan(program, shard(program, Parallelism()))
    assert time.process_time() - start < 2.0  # two steps, a second each


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", ":1:1: is not UTF-8 text: byte 0xff at offset 0"),
        (b"\xef\xbb\xbfmodel", "1:6: the file ends here"),  # a byte-order mark is passed over
        (b"model\r\n\r\n", "1:6: the file ends here"),
        (b"x" * (20 << 20), "a spec has at most 49,152"),
    ],
    ids=["not-utf-8", "bom", "crlf", "20-mb"],
)
def test_a_strange_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "strange.llm"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_spec(path)


def test_an_absent_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_spec(tmp_path / "absent.llm")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
