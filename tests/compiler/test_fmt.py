"""The canonical form: a case by hand, and laws on every shipped spec however it is laid out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.compiler.cli import fmt_command
from servecast.compiler.errors import UserError
from servecast.compiler.fmt import format_source
from servecast.compiler.parse import parse

SPECS = sorted((Path(__file__).parents[2] / "spec").glob("*.llm"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in SPECS}

UGLY = """# about the file
model "m" { context 8_192 # tokens
  weights fp8 per block 128
  let a=4 , b = (2*(a+1))   # sizes


  let c = a*b
  embedding c->a
  repeat 2 { residual { rms_norm a
      # the only layer
      linear a -> 3*(a*1) split columns by 2 bias
      attention 2 x 2 linear a -> a split rows } # end of it
  } rms_norm a }
"""

PRETTY = """# about the file
model "m" {
    context 8192  # tokens
    weights fp8 per block 128
    let a = 4, b = 2 * (a + 1)  # sizes

    let c = a*b
    embedding c -> a
    repeat 2 {
        residual {
            rms_norm a
            # the only layer
            linear    a -> 3 * (a*1)  split columns by 2  bias
            attention 2 x 2
            linear    a -> a  split rows
        }  # end of it
    }
    rms_norm a
}
"""


def test_an_ugly_file_becomes_a_pretty_one() -> None:
    assert format_source(UGLY, "m.llm") == PRETTY


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_shipped_specs_are_in_canonical_form(name: str) -> None:
    assert format_source(TEXTS[name], name) == TEXTS[name]


def tokens(text: str) -> list[str]:
    code = re.sub(r'("[^"\n]*")|#[^\n]*', r"\1", text)
    return re.findall(r'"[^"\n]*"|->|<=|[\w.-]*[\w.](?:/\w+)?|[^\s\w]', code)


separators = st.lists(
    st.sampled_from([" ", " ", "\n", "\n\n\n", "  # why\n", "\n# so\n"]), min_size=40
)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(TEXTS)), gaps=separators)
def test_any_layout_formats_to_one_that_stays(name: str, gaps: list[str]) -> None:
    words = tokens(TEXTS[name])
    messy = "".join(word + gaps[i % len(gaps)] for i, word in enumerate(words))
    once = format_source(messy, name)
    assert parse(once, name).declarations == parse(TEXTS[name], name).declarations
    assert once.count("#") == messy.count("#")
    assert format_source(once, name) == once


@given(whole=st.integers(0, 10**8), parts=st.integers(0, 999_999))
def test_quantities_keep_their_value(whole: int, parts: int) -> None:
    text = f'service "s" {{ slo ttft p90 < {whole}.{parts:06} s }}'
    assert parse(format_source(text, "s"), "s").declarations == parse(text, "s").declarations


def test_check_names_the_files_that_differ_and_writes_nothing(tmp_path: Path) -> None:
    ugly, pretty = tmp_path / "ugly.llm", tmp_path / "pretty.llm"
    ugly.write_text(UGLY)
    pretty.write_text(format_source(UGLY, "x"))
    error = CliRunner().invoke(fmt_command, ["--check", str(ugly), str(pretty)]).exception
    assert isinstance(error, UserError)
    assert str(error) == f"not in canonical form: {ugly}"
    assert ugly.read_text() == UGLY


def test_a_file_is_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "ugly.llm"
    path.write_text(UGLY)
    assert CliRunner().invoke(fmt_command, [str(path)]).exit_code == 0
    assert path.read_text() == format_source(UGLY, "x")
